"""The commands of `preflow`, a file a theme. None imports anything heavy before it is called."""
