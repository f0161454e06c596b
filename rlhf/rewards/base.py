"""The one protocol of rewards: prompts and their completions in, one number a completion out, component by component.

Shapes: B completions of P prompts; a completion names its prompt by index.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf.errors import NumericsError
from rlhf.records import Row
from rlhf.sampler import Completion
from rlhf.spending import spent


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, as whatever scores its completions may need it."""

    ids: list[int]
    """Token ids, up to where the completion starts."""
    messages: list[dict[str, Any]]
    """The conversation so far (role, content)."""
    meta: Mapping[str, Any]
    """What is known about a right answer: `answer` and `verifier`, or the embedded world's `kind` and `args`."""

    @classmethod
    def from_row(cls, row: Row, ids: list[int]) -> "Asked":
        """A prompt row with its tokens; what the row says of its answer goes into `meta`."""
        meta: dict[str, Any] = dict(row.get("meta") or {})
        meta |= {key: row[key] for key in ("answer", "verifier") if key in row}
        return cls(ids, list(row["messages"]), meta)


@dataclass(frozen=True)
class Scored:
    """Rewards of B completions."""

    total: Tensor
    """[B]; what is optimised."""
    components: dict[str, Tensor]
    """[B] each, as the components gave them: not weighted."""
    figures: dict[str, float] = field(default_factory=dict)
    """What else there is to watch: how often a judge gave no verdict, …"""


Component = Callable[[Sequence[Asked], Sequence[Completion]], Tensor]
"""One kind of reward: [B] float32, completion i answering prompts[completion.prompt_index]."""

Score = Callable[[Sequence[Asked], Sequence[Completion]], Scored]
"""What sampling and reinforcement learning ask."""


def compose(parts: Mapping[str, tuple[float, Component]], max_unscorable: float = 0.0) -> Score:
    """total = Σ weight · component; NaN where a component gave no number, which must never be read as one.

    `parts` gives each component its weight by name; a component may have `figures` of its last call. Raises ValueError
    without any, NumericsError where a component gave another shape than [B], or more than the share `max_unscorable`
    of values that are not finite; where there are fewer, `figures` has the share of totals that are `unscorable`.
    """
    if not parts:
        raise ValueError("0 reward components, expected at least 1: give one a weight other than 0")

    @spent("score")
    def score(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Scored:
        components = {name: component(prompts, completions) for name, (_, component) in parts.items()}
        for name, values in components.items():
            _check(name, values, len(completions), max_unscorable)
        weighted = [weight * components[name] for name, (weight, _) in parts.items()]
        figures: dict[str, float] = {}
        for _, component in parts.values():
            figures |= getattr(component, "figures", {})
        total = torch.stack(weighted).sum(dim=0)
        scorable = torch.stack([values.isfinite() for values in components.values()]).all(dim=0)
        if not scorable.all():
            figures["unscorable"] = 1.0 - scorable.float().mean().item()
            total = total.masked_fill(~scorable, float("nan"))
        return Scored(total, components, figures)

    return score


def _check(name: str, values: Any, count: int, max_unscorable: float) -> None:
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape != (count,):
        raise NumericsError(f"reward component `{name}` gave shape {shape}, expected ({count},)")
    bad = int((~torch.isfinite(values)).sum())
    if bad > max_unscorable * count:
        raise NumericsError(
            f"reward component `{name}` gave {bad} of {count} values that are not finite, at most "
            f"{max_unscorable:.0%} may be: set its weight to 0, or mend what it reads"
        )
