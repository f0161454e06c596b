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


def compose(parts: Mapping[str, tuple[float, Component]]) -> Score:
    """total = Σ weight · component.

    `parts` gives each component its weight by name; a component may have `figures` of its last call. Raises ValueError
    without any, NumericsError where a component gave another shape than [B] or a value that is not finite: what cannot
    be scored must never be read as a number.
    """
    if not parts:
        raise ValueError("0 reward components, expected at least 1: give one a weight other than 0")

    @spent("score")
    def score(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Scored:
        components = {name: component(prompts, completions) for name, (_, component) in parts.items()}
        for name, values in components.items():
            _check(name, values, len(completions))
        weighted = [weight * components[name] for name, (weight, _) in parts.items()]
        figures: dict[str, float] = {}
        for _, component in parts.values():
            figures |= getattr(component, "figures", {})
        return Scored(torch.stack(weighted).sum(dim=0), components, figures)

    return score


def _check(name: str, values: Tensor, count: int) -> None:
    if values.shape != (count,):
        raise NumericsError(f"reward component `{name}` gave shape {tuple(values.shape)}, expected ({count},)")
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise NumericsError(
            f"reward component `{name}` gave {bad} of {count} values that are not finite: "
            "set its weight to 0, or mend what it reads"
        )
