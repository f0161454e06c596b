"""What a GPU does with this project, in one command: `make bench-gpu`."""
