"""A padded batch as its different tokens: what linear layers and norms compute once, whoever shares it.

In a causal model a token's hidden state depends on the tokens up to it alone. So padding is left out, and what several
rows begin with (the prompt of a pair or a group) goes through the model once. Only attention sees rows: there, queries,
keys and values are laid out as the padded batch again, which is exact, gradients included.

Shapes: B rows, T tokens, N different tokens, D places of a row whose token another row has already.
"""

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlhf.models import blocks
from rlhf.models.pretrained import sliding_window

NAME = "rlhf_packed"
"""Of the attention function, as transformers knows it."""
WORTH = 0.9
"""A batch is packed where its different tokens are less than this share of the padded ones: laying out costs, too."""
AGREES = 1e-5
"""Largest difference of packed and padded hidden states, as a share of the largest, at a model's first packing."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the N different tokens of a padded batch stand."""

    shape: tuple[int, int]
    """(B, T)."""
    source: Tensor
    """[B·T] which of the N tokens stands at a place; any at padding."""
    place: Tensor
    """[N] a place of each token."""
    again: Tensor
    """[D] further places of tokens that have one."""
    rest: Tensor
    """[B·T − N] all places that `place` does not name: those of `again`, and padding."""

    def to(self, device: torch.device | str) -> "Packing":
        """The same layout on `device`."""
        moved = (tensor.to(device) for tensor in (self.source, self.place, self.again, self.rest))
        return Packing(self.shape, *moved)

    @property
    def worth_it(self) -> bool:
        """Whether so few tokens are left that laying them out for attention costs less than it saves."""
        return len(self.place) < WORTH * len(self.source)

    @property
    def positions(self) -> Tensor:
        """[N] of each token in its row."""
        return self.place % self.shape[1]


def packing_of(input_ids: Tensor, attention_mask: Tensor) -> Packing:
    """The packing of a batch [B, T] padded on the right; tokens in the order of their rows, alike beginnings together.

    Rows in lexicographic order: one that begins like any earlier row begins like the one before it.
    """
    rows, width = input_ids.shape
    keys = [ids[:length] for ids, length in zip(input_ids.tolist(), attention_mask.sum(1).tolist(), strict=True)]
    order = torch.tensor(sorted(range(rows), key=keys.__getitem__), dtype=torch.long, device=input_ids.device)
    ids, real = input_ids[order], attention_mask[order]
    alike = torch.zeros_like(real)
    alike[1:] = ((ids[1:] == ids[:-1]) & real[1:] & real[:-1]).cumprod(1).bool()
    new = real & ~alike
    numbers = (new.flatten().cumsum(0) - 1).view(rows, width)
    first = torch.arange(rows, device=ids.device)[:, None].where(new, 0).cummax(0).values  # the row that had it first
    source = torch.empty_like(input_ids)
    source[order] = numbers.gather(0, first).where(real, 0)
    taken, shared = torch.zeros_like(real), torch.zeros_like(real)
    taken[order], shared[order] = new, real & alike
    flat = (order[:, None] * width + torch.arange(width, device=ids.device))[new]
    return Packing((rows, width), source.flatten(), flat, _indices(shared), _indices(~taken))


def _indices(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero().squeeze(-1)


class _Spread(torch.autograd.Function):
    """[N, …] to [B·T, …]: each token to all its places. What stands at padding is of no consequence."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return values.index_select(0, packing.source)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        packing, (gradient,) = ctx.packing, gradients
        summed = gradient.index_select(0, packing.place)
        if len(packing.again):
            summed.index_add_(0, packing.source[packing.again], gradient.index_select(0, packing.again))
        return summed, None


class _Gather(torch.autograd.Function):
    """[B·T, …] to [N, …]: each token from one of its places."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return values.index_select(0, packing.place)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        packing, (gradient,) = ctx.packing, gradients
        return gradient.index_select(0, packing.source).index_fill_(0, packing.rest, 0.0), None


def spread(values: Tensor, packing: Packing) -> Tensor:
    """[N, …] as [B, T, …]; meaningless at padding, from where no gradient must come."""
    return _Spread.apply(values, packing).unflatten(0, packing.shape)  # type: ignore[no-any-return, no-untyped-call]


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **further: Any
) -> tuple[Tensor, None]:
    """transformers' `sdpa`, and of packed tokens [1, heads, N, …] the same over their rows."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    packing: Packing | None = further.pop("packing", None)
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **further)
    laid_out = [spread(one[0].transpose(0, 1), packing).transpose(1, 2) for one in (query, key, value)]
    output, _ = sdpa_attention_forward(module, *laid_out, None, **further)  # [B, T, heads, …]
    return _Gather.apply(output.flatten(0, 1), packing)[None], None  # type: ignore[no-untyped-call]


@cache
def _registered() -> str:
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def packed_states(model: Any, input_ids: Tensor, packing: Packing) -> Tensor:
    """Hidden states [N, H] of the different tokens."""
    if blocks.able(model, packing.shape[1]):
        return _by_parts(model, input_ids, packing)
    return _by_the_whole(model, input_ids, packing)


def _by_the_whole(model: Any, input_ids: Tensor, packing: Packing) -> Tensor:
    # A mask with four dimensions is handed to attention as it is: none is made for N x N tokens.
    unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
    output = model.get_decoder()(
        input_ids=input_ids.flatten()[packing.place][None],
        position_ids=packing.positions[None],
        attention_mask=unused,
        use_cache=False,
        packing=packing,
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def _by_parts(model: Any, input_ids: Tensor, packing: Packing) -> Tensor:
    def attend(_: int, attention: Any, *heads: Tensor) -> Tensor:
        laid_out = [spread(one, packing).transpose(1, 2) for one in heads]  # [B, heads, T, D]
        attended = blocks.scaled(attention, *laid_out, is_causal=True).transpose(1, 2).flatten(0, 1)
        gathered: Tensor = _Gather.apply(attended, packing)  # type: ignore[no-untyped-call]
        return gathered

    cos, sin = (one[packing.positions] for one in blocks.angles_of(model, packing.shape[1]))
    return blocks.states(model, input_ids.flatten()[packing.place], (cos, sin), attend)


_able: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def able(model: Any, width: int) -> bool:
    """Whether rows this wide can be packed: in architectures that can, as far as attention looks back.

    Tried once a model: on two short rows both ways must agree.
    """
    whole = blocks.whole_of(model)
    if whole not in _able:
        _able[whole] = _takes_packing(whole) and _agrees(model, whole)
    window = sliding_window(whole.config)
    return blocks.able(model, width) or (_able[whole] and (window is None or width <= window))


def _takes_packing(whole: Any) -> bool:
    named = inspect.signature(inspect.unwrap(whole.get_decoder().forward)).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in named.values())
    kinds = set(getattr(whole.config, "layer_types", None) or ())
    only_attention = kinds <= {"full_attention", "sliding_attention"}  # a convolution would run on into the next row
    backend = whole._supports_attention_backend and whole.config._attn_implementation == "sdpa"
    return bool(backend) and only_attention and open_ended and "position_ids" in named


@torch.no_grad()
def _agrees(model: Any, whole: Any) -> bool:
    """Leaves the model with the attention function that packing needs where it does agree, else as it was."""
    device = whole.get_input_embeddings().weight.device
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 4, 3, 0]], device=device)
    real = torch.tensor([[True] * 5, [True] * 4 + [False]], device=device)
    padded = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    before, agrees = whole.config._attn_implementation, False
    whole.set_attn_implementation(_registered())
    try:
        packing = packing_of(ids, real)
        packed = spread(_by_the_whole(model, ids, packing), packing)
        limit = (AGREES if padded.dtype in (torch.float32, torch.float64) else 2.0**-4) * padded.abs().max()
        agrees = bool(((padded - packed)[real].abs() <= limit).all())
    except (TypeError, ValueError, RuntimeError):  # a model that will not have it is padded, as before
        agrees = False
    finally:
        if not agrees:
            whole.set_attn_implementation(before)
    return agrees
