"""What passes through a model need at least, in tokens and floating-point operations, charged to `rlhf.spending`.

How operations are counted is in `rlhf.operations`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rlhf import operations
from rlhf.models.adapted import Adapted
from rlhf.spending import ACCOUNT


@dataclass(frozen=True)
class Sizes:
    """Of a model without embeddings and LM head."""

    weights: int
    """Of the linear layers."""
    per_pair: float
    """FLOPs of attention for two positions that see each other, all layers together."""


_known: "WeakKeyDictionary[nn.Module, Sizes]" = WeakKeyDictionary()


def sizes_of(model: Any) -> Sizes:
    """Sizes of a causal language model, of one with adapters those of its base."""
    whole: Any = model.base.model if isinstance(model, Adapted) else model
    if whole not in _known:
        config = whole.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0) or 0
        width = heads * (getattr(config, "head_dim", None) or 0) or config.hidden_size
        _known[whole] = Sizes(_linear_weights(whole.get_decoder()), 4.0 * width * config.num_hidden_layers)
    return _known[whole]


def charge_pass(model: Any, attention_mask: Tensor, hidden: Tensor) -> None:
    """One pass over rows [B, T] up to the hidden states, and the backward pass where these carry a gradient."""
    lengths = attention_mask.sum(dim=1)
    tokens, pairs = int(lengths.sum()), int((lengths * (lengths + 1)).sum()) / 2
    size = sizes_of(model)
    used = size.weights + _adapter_weights(model)
    flops = operations.forward(used, size.per_pair, tokens, pairs)
    if hidden.requires_grad:
        flops += operations.backward(used, _trained_weights(model), size.per_pair, tokens, pairs)
        ACCOUNT.add(tokens_trained=tokens)
    ACCOUNT.add(tokens_processed=tokens, flops=flops)
    ACCOUNT.precision = str(hidden.dtype).removeprefix("torch.")


def charge_head(head: Any, states: Tensor) -> None:
    """The LM head at states [N, H], and the backward pass where one follows."""
    passes = 1 + int(states.requires_grad) + int(head.weight.requires_grad and torch.is_grad_enabled())
    hidden = states.shape[-1]
    ACCOUNT.add(flops=operations.head(passes, states.numel() / hidden, hidden, head.weight.shape[0]))


def charge_sampling(model: Any, prompts: Sequence[int], completions: Sequence[int]) -> None:
    """Prompts of these lengths, read once each, and the same number of completions of each, prompt-major.

    The last token of a completion is drawn and not read. The first ones of a group are drawn from one distribution.
    """
    size, head = sizes_of(model), model.get_output_embeddings().weight
    group_size = len(completions) // len(prompts)
    pairs = sum(map(operations.seen, prompts))
    for row, count in enumerate(completions):
        pairs += (count - 1) * prompts[row // group_size] + (count - 1) * count / 2
    drawn = sum(completions)
    drawn_and_read = drawn - len(completions)
    read, distributions = sum(prompts) + drawn_and_read, len(prompts) + drawn_and_read
    used = size.weights + _adapter_weights(model)
    flops = operations.forward(used, size.per_pair, read, pairs)
    flops += operations.head(1, distributions, model.config.hidden_size, head.shape[0])
    ACCOUNT.add(tokens_processed=read, tokens_sampled=drawn, flops=flops)
    ACCOUNT.precision = str(model.dtype).removeprefix("torch.")


def _linear_weights(decoder: nn.Module) -> int:
    """Inputs times outputs of linear layers, as weights in 4 bits lie packed; of other layers their matrices."""
    total = 0
    for name, part in decoder.named_modules():
        if "lora_" in name or isinstance(part, nn.Embedding):
            continue
        if isinstance(part, nn.Linear):
            total += part.in_features * part.out_features
        else:
            total += sum(weight.numel() for weight in part.parameters(recurse=False) if weight.dim() > 1)
    return total


def _adapter_weights(model: Any) -> int:
    if not isinstance(model, Adapted):
        return 0
    return sum(weight.numel() for adapter in model.adapters for weight in adapter.weights.values())


def _trained_weights(model: Any) -> int:
    if isinstance(model, Adapted):
        return sum(weight.numel() for weight in model.adapters[-1].weights.values()) if model.trained else 0
    return sizes_of(model).weights if next(model.parameters()).requires_grad else 0
