"""`preflow verify`: every byte that a run stands on, hashed anew, and mended."""
