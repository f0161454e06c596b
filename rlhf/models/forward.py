"""From a right-padded batch to hidden states and token log-probabilities.

The batch goes to where the model is, and what comes out of it back to where the batch was: only this package knows of
more than one device. How many tokens of a batch count is worked out where the batch is: a GPU would have to be waited
for before it can be handed more.

Shapes: B sequences, T tokens, V vocabulary, H hidden, N tokens under the loss mask.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf.batching import Batch
from rlhf.models import blocks, packing
from rlhf.models.logprobs import picked_logprobs
from rlhf.models.needs import charge_head, charge_pass

LOGITS_AT_ONCE = 2**27
"""Most logits alive at a time (half a gigabyte of float32): beyond it the head runs in slices, recomputed backward."""


def hidden_states(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states [B, T, H] of a causal language model, what its LM head reads.

    No mask is handed to the model: in a causal model no real token sees what is padded after it, so with padding on
    the right real positions come out the same, positions count from 0, and the fastest attention kernel applies.
    Where much of the batch is padding, or beginnings that rows share, it goes through the model packed
    (`rlhf.models.packing`). Values at padding are meaningless. Raises ValueError where padding is on the left.
    """
    if not bool(attention_mask[:, 0].all()):
        raise ValueError("a sequence starts with padding, expected it on the right (as rlhf.batching.collate does)")
    device = model.get_output_embeddings().weight.device
    ids = input_ids.to(device)
    layout = packing.packing_of(input_ids, attention_mask)
    if layout.worth_it and packing.able(model, ids.shape[1]):
        layout = layout.to(device)
        hidden = packing.spread(packing.packed_states(model, ids, layout), layout)
    elif blocks.able(model, ids.shape[1]):
        hidden = blocks.padded_states(model, ids)
    else:
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    charge_pass(model, attention_mask, hidden)
    return hidden


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def token_logprobs(model: Any, batch: Batch, temperature: float = 1.0) -> Tensor:
    """log p(input_ids[b, t] | input_ids[b, :t]) at tempered logits, 0 outside the loss mask; [B, T], float32 or finer.

    The LM head runs on the N masked positions only, which is exact and saves most of the memory.
    """
    hidden = hidden_states(model, batch.input_ids, batch.attention_mask)
    logprobs, _ = _masked_logprobs(model, hidden, batch, temperature, with_entropy=False)
    return _scatter(_home(logprobs, batch), batch)


def logprobs_and_entropy(model: Any, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy in nats of each distribution, from the same logits; both [B, T].

    The entropy carries no gradient: it is watched, not trained.
    """
    hidden = hidden_states(model, batch.input_ids, batch.attention_mask)
    logprobs, entropy = _masked_logprobs(model, hidden, batch, temperature, with_entropy=True)
    return _scatter(_home(logprobs, batch), batch), _scatter(_home(entropy, batch), batch)


def logprobs_from_hidden(model: Any, hidden: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
    """`token_logprobs` from hidden states [B, T, H] that were already computed, where these are."""
    logprobs, _ = _masked_logprobs(model, hidden, batch, temperature, with_entropy=False)
    return _scatter(logprobs, batch)


def _masked_logprobs(
    model: Any, hidden: Tensor, batch: Batch, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, expected above 0: a greedy policy has no log-probabilities")
    rows_of, before = batch.loss_mask[:, 1:].nonzero(as_tuple=True)
    targets = batch.input_ids[rows_of, before + 1].to(hidden.device)  # [N]
    states = hidden[rows_of.to(hidden.device), before.to(hidden.device)]  # [N, H]; that at t - 1 predicts token t
    head = model.get_output_embeddings()
    charge_head(head, states)
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if len(targets) <= rows:
        return _head_logprobs(head, states, targets, temperature, with_entropy)
    parts = [
        checkpoint(_head_logprobs, head, some_states, some_targets, temperature, with_entropy, use_reentrant=False)
        for some_states, some_targets in zip(states.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _head_logprobs(
    head: Any, states: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    logits = at_least_float32(head(states))  # [N, V]
    return picked_logprobs(logits, targets, temperature, with_entropy)


def _home(values: Tensor, batch: Batch) -> Tensor:
    return values.to(batch.input_ids.device)


def _scatter(values: Tensor, batch: Batch) -> Tensor:
    trained = batch.loss_mask.to(values.device, copy=True)
    trained[:, 0] = False
    return torch.zeros(trained.shape, dtype=values.dtype, device=values.device).masked_scatter(trained, values)
