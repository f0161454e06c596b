"""TRL's side; runs in an environment of its own, see setup.sh."""
