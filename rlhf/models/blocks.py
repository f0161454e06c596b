"""The blocks of a model built as Llama is, called by their parts: the same numbers in fewer operations.

A decoder of transformers makes masks, rotary angles and a good many checks anew in every pass, for one sampled token
longer than the arithmetic of a small model takes; and autograd puts the backward pass of rotary positions and gates
together from a dozen operations, each of which reads and writes all activations. Attention is the caller's: it differs
between a packed batch, a padded one and a cache.

    y = x · cos + turned(x) · sin          (rotary positions, 2104.09864)
    y = W_d (silu(W_g x) · W_u x)          (SwiGLU, 2002.05202)

Shapes: N tokens, H hidden, D head size, I intermediate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlhf.models.adapted import Adapted
from rlhf.models.pretrained import sliding_window
from rlhf.models.recompute import is_recomputed, recomputed

Attend = Callable[[int, Any, Tensor, Tensor, Tensor], Tensor]
"""(number of a block, its attention module, queries, keys, values [N, heads, D]) to what is attended [N, heads, D]."""
Angles = tuple[Tensor, Tensor]
"""cos and sin by position [N, 1, D], the sign of the turn in sin."""

AGREES = 1e-5
"""Largest difference to the whole model's hidden states on a probe, as a share of the largest."""
STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary angles that depend on nothing but the position, by transformers' names."""
DECODER = {"embed_tokens", "layers", "norm", "rotary_emb"}
BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION, NORMS = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"q_norm", "k_norm"}
GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def states(model: Any, ids: Tensor, angles: Angles, attend: Attend) -> Tensor:
    """Hidden states [N, H] of the tokens [N]; of a model that is `able`."""
    if isinstance(model, Adapted):
        model.activate()
    decoder = decoder_of(model)
    hidden = decoder.embed_tokens(ids[None])[0]
    for number, block in enumerate(decoder.layers):
        hidden = recomputed(block, _block)(block, hidden, angles, partial(attend, number))
    normed: Tensor = decoder.norm(hidden)
    return normed


def _block(block: Any, hidden: Tensor, angles: Angles, attend: Callable[..., Tensor]) -> Tensor:
    hidden = hidden + _attention(block.self_attn, block.input_layernorm(hidden), angles, attend)
    return hidden + _feed_forward(block.mlp, block.post_attention_layernorm(hidden))


def _attention(attention: Any, hidden: Tensor, angles: Angles, attend: Callable[..., Tensor]) -> Tensor:
    query, key, value = (
        project(hidden).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    attended = attend(attention, rotated(query, *angles), rotated(key, *angles), value)
    projected: Tensor = attention.o_proj(attended.flatten(-2))
    return projected


def _feed_forward(mlp: Any, hidden: Tensor) -> Tensor:
    projected: Tensor = mlp.down_proj(gated(mlp.gate_proj(hidden), mlp.up_proj(hidden)))
    return projected


def angles_of(model: Any, room: int) -> Angles:
    """Angles of all positions below `room`; to be indexed by the tokens' positions."""
    decoder = decoder_of(model)
    weight = decoder.norm.weight
    cos, sin = decoder.rotary_emb(weight, torch.arange(room, device=weight.device)[None])  # [1, room, D]
    half = sin.shape[-1] // 2
    return cos[0][:, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)[:, None]


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(values, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (gradient,) = gradients
        return (gradient * sin).roll(gradient.shape[-1] // 2, -1).addcmul_(gradient, cos), None, None


def _turn(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(values * cos, values.roll(values.shape[-1] // 2, -1), sin)


def rotated(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys [N, heads, D] turned by the angles of their positions."""
    if not torch.is_grad_enabled():
        return _turn(values, cos, sin)
    turned: Tensor = _Rotation.apply(values, cos, sin)  # type: ignore[no-untyped-call]
    return turned


class _Gate(torch.autograd.Function):
    """silu(gate) is computed again in the backward pass: it would be one more [N, I] in memory for every block."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        (gradient,) = gradients
        to_gate: Tensor = torch.ops.aten.silu_backward(gradient * up, gate)
        return to_gate, nn.functional.silu(gate).mul_(gradient)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, [N, I]."""
    if not torch.is_grad_enabled():
        return nn.functional.silu(gate).mul_(up)
    product: Tensor = _Gate.apply(gate, up)  # type: ignore[no-untyped-call]
    return product


def whole_of(model: Any) -> Any:
    """The model of transformers that a policy's model is or lies on."""
    return model.base.model if isinstance(model, Adapted) else model


def decoder_of(model: Any) -> Any:
    """Its embedding, blocks and last norm."""
    return whole_of(model).get_decoder()


_able: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def able(model: Any, width: int) -> bool:
    """Whether a model can be called by its parts with rows this wide: built as Llama is, and tried once.

    Not where a block must be called as a whole, as it is divided among processes, nor where its attention looks back
    less far.
    """
    whole = whole_of(model)
    window = sliding_window(whole.config)
    if (window is not None and width > window) or _waited_for(whole):
        return False
    if whole not in _able:
        _able[whole] = _built_as_llama(whole) and _agrees(model)
    return _able[whole]


def _built_as_llama(whole: Any) -> bool:
    def parts(module: nn.Module) -> set[str]:
        return {name for name, _ in module.named_children()}

    decoder = whole.get_decoder()
    return (
        parts(decoder) == DECODER
        and getattr(decoder.rotary_emb, "rope_type", None) in STATIC_ROTARY
        and not getattr(whole.config, "attention_dropout", 0.0)
        and all(parts(block) == BLOCK for block in decoder.layers)
        and all(parts(block.self_attn) - NORMS == ATTENTION for block in decoder.layers)
        and all(parts(block.mlp) == GATED for block in decoder.layers)
        and all(type(block.mlp.act_fn).__name__ in ("SiLU", "SiLUActivation") for block in decoder.layers)
    )


def _waited_for(whole: Any) -> bool:
    """Whether something is to happen where a block is called, or its forward is one that is not known here."""
    decoder = whole.get_decoder()
    passed = [decoder, *(part for block in getattr(decoder, "layers", ()) for part in (block, *block.children()))]
    return any(
        ("forward" in vars(part) and not is_recomputed(part)) or part._forward_pre_hooks or part._forward_hooks
        for part in passed
    )


@torch.no_grad()
def _agrees(model: Any) -> bool:
    ids = torch.tensor([[1, 2, 3, 4, 5], [2, 1, 4, 3, 1]], device=decoder_of(model).norm.weight.device)
    wholly = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    try:
        partly = padded_states(model, ids)
        limit = (AGREES if wholly.dtype in (torch.float32, torch.float64) else 2.0**-4) * wholly.abs().max()
        return bool(((wholly - partly).abs() <= limit).all())
    except (TypeError, ValueError, RuntimeError, AttributeError):  # a model that will not have it is called as a whole
        return False


def padded_states(model: Any, ids: Tensor) -> Tensor:
    """Hidden states [B, T, H] of a batch [B, T] padded on the right, as far as they are no padding."""
    rows, width = ids.shape

    def attend(_: int, attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        laid_out = (one.unflatten(0, (rows, width)).transpose(1, 2) for one in (query, key, value))
        return scaled(attention, *laid_out, is_causal=True).transpose(1, 2).flatten(0, 1)

    cos, sin = (one.repeat(rows, 1, 1) for one in angles_of(model, width))
    return states(model, ids.flatten(), (cos, sin), attend).unflatten(0, (rows, width))


def scaled(attention: Any, query: Tensor, key: Tensor, value: Tensor, **further: Any) -> Tensor:
    """Attention [B, heads, T, D] with a module's scale and as many heads as it has keys for."""
    return nn.functional.scaled_dot_product_attention(
        query, key, value, scale=attention.scaling, enable_gqa=query.shape[1] > key.shape[1], **further
    )
