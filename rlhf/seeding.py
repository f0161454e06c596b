"""Independent random streams from one seed: each purpose has its own, so that none shifts another.

Streams are derived from (seed, purpose, index …), never drawn from a running generator. A step that is done again
after a kill therefore sees the same numbers, and no generator state has to be saved.
"""

from hashlib import blake2b

import torch


def derive(seed: int, *names: str | int) -> int:
    """A seed of its own for (seed, names …): 63 bits of BLAKE2b, the same on every machine and in every process."""
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator that starts at `derive(seed, *names)`."""
    return torch.Generator().manual_seed(derive(seed, *names))
