"""Whether a path that a file names stays where it belongs: the file may have come from anywhere."""

from pathlib import PurePosixPath


def leads_out(name: str) -> bool:
    """Whether a path is none of something within the folder that it is taken from."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts
