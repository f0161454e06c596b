"""TRL with one of its choices taken out, each by replacing one function; and TRL without float32 inside."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
import trl
from torch import Tensor

from bench.parity.precision import float64_throughout


class Float64Head:
    """In the place of TRL's chunked LM head, which is float32 inside whatever the model is."""

    @staticmethod
    def apply(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        logprobs = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1)
        unused = torch.zeros_like(targets, dtype=hidden.dtype)
        return logprobs.gather(-1, targets[:, None]).squeeze(-1), unused, unused, unused, unused.bool()


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """TRL and the model without float32 inside."""
    utils = trl.trainer.utils
    with float64_throughout(), contextlib.ExitStack() as stack:
        if hasattr(utils, "_ChunkedLogProbFunction"):
            stack.enter_context(patch.object(utils, "_ChunkedLogProbFunction", Float64Head))
        yield


def population_std(tensor: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    return tensor.std(dim, correction=0, keepdim=keepdim)


@contextlib.contextmanager
def changed(names: tuple[str, ...]) -> Iterator[None]:
    """TRL with some of its choices taken out, each by replacing one function."""
    with contextlib.ExitStack() as stack:
        for name in names:
            for change in PATCHES[name]():
                stack.enter_context(change)
        yield


def _population_group_std() -> list[Any]:
    from trl.trainer import grpo_trainer, rloo_trainer

    return [patch.object(module, "nanstd", population_std) for module in (grpo_trainer, rloo_trainer)]


def _population_whitening() -> list[Any]:
    from trl.experimental.ppo import ppo_trainer

    biased = ppo_trainer.masked_var
    return [patch.object(ppo_trainer, "masked_var", lambda values, mask: biased(values, mask, unbiased=False))]


PATCHES: dict[str, Callable[[], list[Any]]] = {
    "population_group_std": _population_group_std,
    "population_whitening": _population_whitening,
}
