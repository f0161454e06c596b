"""One more token of every row: of models built as Llama is, by their parts; of any other by the whole model.

A decoder of transformers makes masks, rotary angles and a good many checks anew for each token, which takes longer
than the arithmetic of a small model. Here angles are worked out once, and the parts of the blocks called in turn.

Shapes: R rows, K cached positions, H hidden, D head size.
"""

import math
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rlhf.models.adapted import Adapted
from rlhf.models.pretrained import sliding_window

AGREES = 1e-5
"""Largest difference of hidden states to the whole model's, as a share of the largest, at a model's first decoding."""
STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary angles that depend on nothing but the position, by transformers' names."""
DECODER, BLOCK, ATTENTION, OPTIONAL = (
    {"embed_tokens", "layers", "norm", "rotary_emb"},
    {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    {"q_proj", "k_proj", "v_proj", "o_proj"},
    {"q_norm", "k_norm"},
)


class Step(Protocol):
    """The hidden states [R, H] of the newest tokens, whose keys and values join the cache."""

    def __call__(self, ids: Tensor, positions: Tensor, bias: Tensor | None, cache: Any) -> Tensor:
        """Of ids [R] at positions [R, 1]; `bias` [R, 1, 1, K + 1] is added to what attention weighs: -inf hides."""
        ...


def decoding(model: Any, room: int) -> Step:
    """How tokens are decoded at positions below `room`."""
    whole: Any = model.base.model if isinstance(model, Adapted) else model
    decoder = whole.get_decoder()
    window = sliding_window(whole.config)
    hooked = any(part._forward_pre_hooks or part._forward_hooks for part in getattr(decoder, "layers", ()))
    # Where a hook gathers a block's weights, as of divided models, its parts cannot be called without it.
    if hooked or (window is not None and room > window) or not able(model, whole):
        return _by_the_whole(model)
    return _by_parts(model, decoder, room)


def _by_the_whole(model: Any) -> Step:
    decoder = model.get_decoder()

    def step(ids: Tensor, positions: Tensor, bias: Tensor | None, cache: Any) -> Tensor:
        output = decoder(
            input_ids=ids[:, None],
            position_ids=positions,
            attention_mask=bias,
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    return step


def _by_parts(model: Any, decoder: Any, room: int) -> Step:
    weight = decoder.embed_tokens.weight
    every = torch.arange(room, device=weight.device)[None]
    cos, sin = (one[0] for one in decoder.rotary_emb(decoder.norm.weight, every))  # [room, D]
    sin = torch.cat([-sin[:, : sin.shape[-1] // 2], sin[:, sin.shape[-1] // 2 :]], dim=-1)  # signs of the rotation

    def step(ids: Tensor, positions: Tensor, bias: Tensor | None, cache: Any) -> Tensor:
        if isinstance(model, Adapted):
            model.activate()
        at = positions.squeeze(-1)
        angles = cos[at][:, None, None], sin[at][:, None, None]  # [R, 1, 1, D]
        hidden = decoder.embed_tokens(ids[:, None])
        for block, cached in zip(decoder.layers, cache.layers, strict=True):
            attended = _attention(block.self_attn, block.input_layernorm(hidden), angles, bias, cached)
            hidden = hidden + attended
            hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
        final: Tensor = decoder.norm(hidden)[:, -1]
        return final

    return step


def _attention(
    attention: Any, hidden: Tensor, angles: tuple[Tensor, Tensor], bias: Tensor | None, cached: Any
) -> Tensor:
    query, key, value = (
        project(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)  # [R, heads, 1, D]
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    keys, values = cached.update(_rotated(key, *angles), value)
    attended = nn.functional.scaled_dot_product_attention(
        _rotated(query, *angles),
        keys,
        values,
        attn_mask=bias,
        scale=attention.scaling,
        enable_gqa=query.shape[1] > key.shape[1],
    )
    projected: Tensor = attention.o_proj(attended.transpose(1, 2).flatten(2))
    return projected


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """States [R, heads, 1, D] times cos, plus what is half a head away times the signed sin."""
    return states * cos + states.roll(states.shape[-1] // 2, -1) * sin


_able: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def able(model: Any, whole: Any) -> bool:
    """Whether a model can be called by its parts: built as Llama is, and tried once on two short rows."""
    if whole not in _able:
        _able[whole] = _built_as_llama(whole.get_decoder()) and _agrees(model, whole.get_decoder())
    return _able[whole]


def _built_as_llama(decoder: Any) -> bool:
    def parts(module: nn.Module) -> set[str]:
        return {name for name, _ in module.named_children()}

    return (
        parts(decoder) == DECODER
        and getattr(decoder.rotary_emb, "rope_type", None) in STATIC_ROTARY
        and all(parts(block) == BLOCK for block in decoder.layers)
        and all(parts(block.self_attn) - OPTIONAL == ATTENTION for block in decoder.layers)
    )


@torch.inference_mode()
def _agrees(model: Any, decoder: Any) -> bool:
    """On two rows of three tokens, of which one has a place between that is hidden, and two more decoded."""
    try:
        wholly, partly = (_tried(model, kind) for kind in (_by_the_whole(model), _by_parts(model, decoder, 5)))
    except (TypeError, ValueError, RuntimeError, AttributeError):  # a model that will not have it is called as a whole
        return False
    limit = (AGREES if wholly.dtype in (torch.float32, torch.float64) else 2.0**-4) * wholly.abs().max()
    return bool(((wholly - partly).abs() <= limit).all())


def _tried(model: Any, step: Step) -> Tensor:
    from transformers import DynamicCache

    device = model.get_output_embeddings().weight.device
    ids = torch.tensor([[1, 2, 3], [2, 1, 0]], device=device)
    bias = torch.tensor([[0.0] * 5, [0, 0, -math.inf, 0, 0]], device=device, dtype=model.dtype)[:, None, None]
    cache, found = DynamicCache(), []
    model.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    for place in range(2):
        positions = torch.tensor([[3 + place], [2 + place]], device=device)
        found.append(step(torch.tensor([4, 5], device=device) - place, positions, bias[..., : 4 + place], cache))
    return torch.stack(found)
