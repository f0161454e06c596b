"""One more token of every row: by the blocks' parts where a model is built as Llama is, else by the whole model.

Shapes: R rows, K cached positions, H hidden, D head size.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rlhf.models import blocks

Step = Callable[[Tensor, Tensor, Tensor | None, Any], Tensor]
"""(ids [R], positions [R, 1], bias [R, 1, 1, K + 1], cache) to hidden states [R, H]; keys and values join the cache.
The bias is added to what attention weighs: -inf hides, and None hides nothing."""


def decoding(model: Any, room: int) -> Step:
    """How tokens are decoded at positions below `room`."""
    return _by_parts(model, room) if blocks.able(model, room) else _by_the_whole(model)


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


def _by_parts(model: Any, room: int) -> Step:
    cos, sin = blocks.angles_of(model, room)  # once for all tokens

    def step(ids: Tensor, positions: Tensor, bias: Tensor | None, cache: Any) -> Tensor:
        at = positions.squeeze(-1)

        def attend(number: int, attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = cache.layers[number].update(key[:, :, None], value[:, :, None])  # [R, heads, K + 1, D]
            return blocks.scaled(attention, query[:, :, None], keys, values, attn_mask=bias).squeeze(2)

        return blocks.states(model, ids, (cos[at], sin[at]), attend)

    return step
