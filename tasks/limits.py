"""What a machine may refuse a stage, found before it works or named when it happens: a place to write, memory."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rlhf.errors import OutOfMemory, PreflowError

_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate", "bad_alloc")


def refuse_read_only(*folders: Path) -> None:
    """Make the folders, and be sure that files can be made in them. Raises PreflowError where not."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise PreflowError(
                f"{folder} cannot be written to ({error.strerror}), and the stage would lose its work there: nothing "
                "was begun; mend its permissions, its mount or the full disk"
            ) from error


@contextmanager
def memory_named(section: str, config: Any) -> Iterator[None]:
    """Tell memory that ran out from other errors, and what to do. Raises OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _ran_out(error):
            raise
        knobs = [f"{section}.{name}" for name in ("max_batch_tokens", "batch_size") if hasattr(config, name)]
        less = f"lower {' or '.join(knobs)}" if knobs else "give it less data"
        raise OutOfMemory(
            f"out of memory ({_first_line(error)}): {less}, train an adapter (training.method=lora), take a smaller "
            "model, or end other work on this machine; what was saved before is kept"
        ) from error


def _ran_out(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
