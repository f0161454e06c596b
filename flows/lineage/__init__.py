"""`preflow lineage`: where a row, a model or a version comes from, and what became of it."""
