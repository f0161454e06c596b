"""Knobs of the algorithms, one block each: a stage reads only the block that it names, from its own family's module."""
