"""What a stage computes: the operations of its passes, counted as its cost report counts them, and tokens it samples.

Passes over held-out rows, which are few, are not counted; they lower the rate that is measured. Blocks that are
computed again count, as they take their time; the report leaves them out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.plan.asked import reads_head
from flows.plan.data import Facts
from rlhf import operations
from rlhf.sizes import How, Sizes
from tasks.graph import Stage

NUM_SAMPLES = 256
"""`tasks.reward_model.NUM_SAMPLES`; a test holds them together."""


@dataclass(frozen=True)
class Work:
    """Of one stage."""

    flops: float
    """Of training and scoring; sampling is bound by how fast weights are read, so its operations say nothing."""
    sampled: float
    """Tokens, at most."""


@dataclass(frozen=True)
class _Passes:
    """Counts for rows of one mean length, of `read` positions at the LM head each."""

    sizes: Sizes
    how: How
    length: float
    read: float

    def scored(self, rows: float, head: bool = True) -> float:
        """Forward alone."""
        return self._forward(rows) + (self._head(1, rows) if head else 0.0)

    def trained(self, rows: float, head: bool = True) -> float:
        """Forward and backward."""
        pairs = rows * operations.seen(self.length)
        learns = self._adapter or self.sizes.linear
        found = operations.backward(self._used, learns, self._per_pair, rows * self.length, pairs)
        again = self._forward(rows) if self.how.gradient_checkpointing else 0.0
        return self._forward(rows) + found + again + (self._head(2 if self._adapter else 3, rows) if head else 0.0)

    @property
    def _adapter(self) -> int:
        return 0 if self.how.method == "full" else self.sizes.adapter(self.how.rank)

    @property
    def _used(self) -> int:
        return self.sizes.linear + self._adapter

    @property
    def _per_pair(self) -> float:
        return 4.0 * self.sizes.heads * self.sizes.head_size * self.sizes.layers

    def _forward(self, rows: float) -> float:
        return operations.forward(self._used, self._per_pair, rows * self.length, rows * operations.seen(self.length))

    def _head(self, passes: int, rows: float) -> float:
        return operations.head(passes, rows * self.read, self.sizes.hidden, self.sizes.vocab)


def work_of(
    stage: Stage,
    module: str,
    section: Mapping[str, Any],
    values: Mapping[str, Any],
    data: Facts,
    sizes: Sizes,
    how: How,
) -> Work | None:
    """Of a stage with these settings; None where the number of its rows is not known."""
    prompt, answer, new = data.lengths.prompt, data.lengths.answer, values["generation"]["max_new_tokens"]
    given, drawn = (_Passes(sizes, how, prompt + one, one) for one in (answer, new))
    rows, members = rows_of(stage, module, section, values, data), values["reward_model"]["ensemble"]
    reads = values["reward_model"]["reads"] == "tokens"
    match module:
        case "base" if section["source"] == "checkpoint":
            return Work(0.0, 0.0)
        case "rl":
            return _of_rl(stage, section, values, drawn, rows)
        case _ if not rows:
            return None
        case "base":
            return Work(_Passes(sizes, How(), prompt + answer, prompt + answer).trained(rows * section["epochs"]), 0.0)
        case "sft":
            return Work(given.trained(rows * section["epochs"]), 2.0 * section["num_samples"] * new)
        case "rejection_sampling":  # those selected, and as many at random
            return Work(given.trained(2 * rows * section["epochs"]), 0.0)
        case "dpo":  # the reference answers once, before
            return Work(given.scored(2 * rows) + given.trained(2 * rows * section["epochs"]), 0.0)
        case "reward_model":
            passes = given.trained if section["lr"] else given.scored
            flops = passes(2 * rows * section["epochs"] * members, reads_head(section))
            return Work(flops, float(NUM_SAMPLES * new))
    completions = rows * section["samples_per_prompt" if module == "evaluate" else "group_size"]
    judges = sum(f"--{name} " in stage.cmd for name in ("reward-model", "policy-rm", "held-out-rm"))
    flops = members * judges * drawn.scored(completions, reads)
    if module == "evaluate":  # SFT says how far each answer is from it
        flops += drawn.scored(completions)
    return Work(flops, float(completions * new))


def rows_of(stage: Stage, module: str, section: Mapping[str, Any], values: Mapping[str, Any], data: Facts) -> float:
    """Rows that a stage trains on, or prompts that it answers, each policy for itself; pairs count once."""
    match module:
        case "rejection_sampling":  # one completion a prompt, on average
            return float(values["sample"]["num_prompts"])
        case "dpo":  # the other half is the held-out reward model's
            return float(min(data.rows / 2, section["max_pairs"]))
        case "base" | "sft" | "reward_model":
            return float(data.rows)
        case "rl":
            return float(values["algorithms"][section["algorithm"]]["prompts_per_update"] * section["num_updates"])
        case "evaluate":
            return float(section["num_prompts"] * _policies(stage))
    return float(section["num_prompts"])


def _policies(stage: Stage) -> int:
    """That are evaluated: base, SFT, and those that the command names."""
    return 2 + sum("=" in word for word in stage.cmd.partition("--policies ")[2].partition(" --")[0].split())


def _of_rl(stage: Stage, section: Mapping[str, Any], values: Mapping[str, Any], drawn: _Passes, prompts: float) -> Work:
    """Every completion is judged, asked of the reference and of the critic, and learnt from; val prompts are judged."""
    algorithm, config = values["algorithms"][section["algorithm"]], values["reward_model"]
    completions = prompts * algorithm["group_size"]
    looked_at = section["num_val_prompts"] * (1 + section["num_updates"] // section["val_every"])
    reads = config["reads"] == "tokens"
    flops = drawn.scored(completions + looked_at)  # the reference
    for option, rows in (("reward-model", completions + looked_at), ("held-out", looked_at)):
        if f"--{option} " in stage.cmd:
            flops += config["ensemble"] * drawn.scored(rows, reads)
    learnt = completions * algorithm["inner_steps"]
    flops += drawn.trained(learnt)
    if section["algorithm"] == "ppo":
        flops += drawn.scored(completions, head=False) + drawn.trained(learnt, head=False)
    return Work(flops, (completions + looked_at) * drawn.read)
