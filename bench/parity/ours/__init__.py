"""Our side."""
