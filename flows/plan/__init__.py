"""`preflow plan`: what a run will take before its first step, and what it took afterwards."""
