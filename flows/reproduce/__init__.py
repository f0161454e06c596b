"""`preflow reproduce`: a run once more, restored and proven, or made again from nothing."""
