"""`preflow diff`: why two runs differ, from what differs at the root to what it came to."""
