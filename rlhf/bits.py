"""bitsandbytes: weights in 4 bits and moments in 8. Loaded where it is used only."""

import logging
from types import ModuleType

from rlhf.errors import PreflowError


def quiet() -> None:
    """Before anything loads bitsandbytes: it warns of kernels that it does without."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def bitsandbytes() -> ModuleType:
    """The library.

    Raises PreflowError where it is not installed.
    """
    quiet()
    try:
        import bitsandbytes as library
    except ImportError as error:
        raise PreflowError(
            f"bitsandbytes cannot be loaded ({error}), and training.method=qlora and training.optimizer=adamw_8bit "
            "need it: install it, or set them to lora and adamw"
        ) from error
    found: ModuleType = library
    return found
