"""The random killer: kill -9 at any moment of a pipeline, in any of its processes; it ends in the same bytes."""
