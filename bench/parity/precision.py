"""float64 that stays float64: transformers and TRL cast parts of the arithmetic to float32, whatever the model is."""

import contextlib
from collections.abc import Iterator
from unittest.mock import patch

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def _normed(self: LlamaRMSNorm, hidden_states: Tensor) -> Tensor:
    """LlamaRMSNorm.forward without its cast to float32."""
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


@contextlib.contextmanager
def float64_throughout() -> Iterator[None]:
    """`tensor.float()` gives float64 (rotary positions, losses), and norms are not rounded."""
    with patch.object(Tensor, "float", Tensor.double), patch.object(LlamaRMSNorm, "forward", _normed):
        yield
