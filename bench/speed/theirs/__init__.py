"""TRL's side, in an environment of its own."""
