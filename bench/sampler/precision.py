"""What of single precision makes log-probabilities of stories3M differ from those of double precision.

    python -m bench.sampler.precision

One part after the other is worked out in double precision, with its inputs and outputs in single precision: where a
part were to blame, the gap would close with it. Sampler and trainer each have a gap of this size, so no smaller one
between the two can be asked for.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from bench.page import table
from bench.sentiment.task import model_folder
from rlhf.models import adapt_policy
from rlhf.sampler import sample

SEED, ROWS, TOKENS = 5, 64, 128
Change = Callable[[Any], None]


class Doubled(nn.Module):
    """A module in double precision between neighbours in single precision."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = deepcopy(module).double()

    def forward(self, *given: Any, **named: Any) -> Any:
        told = self.inner(
            *(_cast(one, torch.float64) for one in given),
            **{name: _cast(one, torch.float64) for name, one in named.items()},
        )
        return _cast(told, torch.float32)


def main() -> None:
    torch.set_num_threads(1)
    policy = adapt_policy(model_folder(), seed=SEED)
    policy.chat.stop_id = policy.chat.vocab_size  # which never comes: all rows are of one length
    told = sample(policy, [[policy.chat.bos_id]], max_new_tokens=TOKENS, temperature=1.0, group_size=ROWS, seed=SEED)
    ids = torch.tensor([[policy.chat.bos_id, *one.ids] for one in told])
    model = policy.model
    exact = logprobs(deepcopy(model).double(), ids)
    lines = []
    for name, change in CHANGES.items():
        changed = deepcopy(model)
        change(changed)
        gap = (logprobs(changed, ids) - exact).abs()
        lines.append([name, f"{gap.max():.1e}", f"{gap.median():.1e}", f"{100 * (gap > 1e-5).double().mean():.2f}%"])
    print("\n".join(table(["in double precision", "largest gap", "median", "gaps > 1e-5"], lines, texts=1)))


@torch.no_grad()
def logprobs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """float64, [rows, tokens - 1]; the softmax in double precision always."""
    logits = model(input_ids=ids).logits.double()
    return logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]


def _head(model: Any) -> None:
    model.lm_head = Doubled(model.lm_head)


def _in_blocks(*names: str) -> Change:
    def change(model: Any) -> None:
        for block in model.model.layers:
            for name in names:
                setattr(block, name, Doubled(getattr(block, name)))

    return change


def _blocks(first: int, last: int) -> Change:
    def change(model: Any) -> None:
        for number in range(first, last):
            model.model.layers[number] = Doubled(model.model.layers[number])

    return change


def _all(model: Any) -> None:
    _in_blocks("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")(model)
    model.model.norm = Doubled(model.model.norm)
    _head(model)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(_cast(one, dtype) for one in value)
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


CHANGES: dict[str, Change] = {
    "nothing": lambda _: None,
    "LM head": _head,
    "attention": _in_blocks("self_attn"),
    "feed-forward": _in_blocks("mlp"),
    "norms": _in_blocks("input_layernorm", "post_attention_layernorm"),
    "blocks 1 to 3": _blocks(0, 3),
    "blocks 4 to 6": _blocks(3, 6),
    "all but the sums between blocks": _all,
}

if __name__ == "__main__":
    main()
