"""Stage `dpo`: direct alignment, learning from preferences without a reward model; `dpo.algorithm` names the method.

In: the policy to start from, which is also the reference, and pairs (train and val). Out: `policy/` and `metrics.json`.
The methods and their formulas are in rlhf.losses.direct_alignment. The reference's log-probabilities are computed once
and kept; they are the same numbers. Of the train pairs only those of the half "policy" are used: the held-out reward
model, which judges runs without gold, must not have been fitted on what a candidate was trained on. KTO takes each side
of a pair as a completion of its own, and `ratings`, completions that were labelled one by one, as they are; the other
methods have no use for these. What to look at: `dpo/val_accuracy`, and `dpo/displacement`, which below 0 says that the
chosen completions became LESS likely too.

    python -m tasks.dpo --help
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf import distributed
from rlhf.chat import Chat
from rlhf.checkpoints import Checkpoints
from rlhf.epochs import num_steps, rows_at
from rlhf.errors import PreflowError
from rlhf.losses.direct_alignment import kto_baseline
from rlhf.models import Policy, room, save_policy, token_logprobs, trainable
from rlhf.preferences import Example, Labelled, encode_example, example_batch, example_micro_batches, mismatched
from rlhf.records import Row, read_rows, write_json
from rlhf.seeding import derive
from rlhf.spending import spent
from rlhf.trainer import Metrics, OptimizerSettings, StepBatch, fit
from tasks.config.algorithms.direct import DirectAlgorithm, Kto
from tasks.config.dpo import DirectAlignment
from tasks.config.training import FULL, Training
from tasks.dpo_losses import MicroBatch, loss_of
from tasks.graph import digest
from tasks.journal import Log
from tasks.prompts import check_room, fitting
from tasks.stage import main

Reference = Mapping[str, float]
"""log π_ref of whole completions by `Labelled.key`; empty where the method has no reference."""


@dataclass(frozen=True)
class Lesson:
    """What one optimiser step, or the measurement at the end, goes by."""

    examples: list[Example]
    mismatched: list[Labelled]
    """Of KTO: prompts with completions of others."""


def dpo(
    config: DirectAlignment,
    *,
    algorithm: DirectAlgorithm,
    training: Training = FULL,
    seed: int,
    policy: Path,
    pairs: Path,
    ratings: Path | None = None,
    out: Path,
    scratch: Path,
    log: Log,
) -> None:
    """Train on the train pairs, measure on the val pairs; the first lines of the module name the files."""
    learner = trainable(policy, training, seed, "dpo")
    half = [row for row in read_rows(pairs / "train.jsonl") if row["half"] == "policy"]
    rated = {split: _rated(algorithm, learner, ratings, split) for split in ("train", "val")}
    train = _encode(algorithm, learner.chat, _some([*half, *rated["train"]], config.max_pairs, seed))
    val = _encode(algorithm, learner.chat, [*read_rows(pairs / "val.jsonl"), *rated["val"]])
    most_tokens = _most_tokens(config, algorithm, learner, [*train, *val])
    steps = num_steps(len(train), config.batch_size, config.epochs)
    measured = _lesson(algorithm, val, most_tokens)

    def lesson_at(step: int) -> Lesson:
        chosen = [train[row] for row in rows_at(step, len(train), config.batch_size, seed)]
        return _lesson(algorithm, chosen, most_tokens)

    reference: Reference = {}
    if algorithm.needs_reference:
        lessons = [measured, *map(lesson_at, range(steps))]
        reference = _reference(config, learner, _asked(lessons), policy, scratch)

    def loss(micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        values, metrics = loss_of(algorithm, learner.model, micro_batch)
        return values.sum(), metrics

    result = fit(
        {"policy": learner.model},
        steps=steps,
        batch_at=lambda step: _step(config, algorithm, learner, lesson_at(step), reference),
        loss=loss,
        optimizer=OptimizerSettings(
            lr=algorithm.lr,
            warmup_steps=config.warmup_steps,
            max_grad_norm=config.max_grad_norm,
            kind=training.optimizer,
            shard=training.shard,
        ),
        seed=seed,
        name="dpo",
        checkpoints=Checkpoints(
            scratch / "checkpoints", every=config.checkpoint_every, of={"vocabulary": learner.chat.fingerprint}
        ),
        log=log,
        progress=log.progress,
    )
    found = _measure(algorithm, learner, _step(config, algorithm, learner, measured, reference))
    log({f"dpo/val_{name}": value for name, value in found.items()}, result.steps)
    save_policy(learner, out / "policy")
    write_json(
        out / "metrics.json",
        {"pairs": len(train), "val_pairs": len(val), "steps": result.steps, "nonfinite": result.nonfinite}
        | ({"ratings": sum(len(one) == 1 for one in train)} if rated["train"] else {})
        | {f"val_{name}": value for name, value in found.items()},
    )


def _rated(algorithm: DirectAlgorithm, policy: Policy, ratings: Path | None, split: str) -> list[Row]:
    """Completions that were labelled one by one, of which the model has room for all; none but for KTO."""
    if ratings is None or not isinstance(algorithm, Kto):
        return []
    chat = policy.chat
    fit = fitting(
        "ratings",
        read_rows(ratings / f"{split}.jsonl"),
        chat,
        lambda row: encode_example(chat, row),
        lambda example: example[0].tokens,
        room(policy.model),
        "all that the model has positions for",
    )
    return [row for row, _ in fit.kept]


def _some(rows: list[dict[str, Any]], limit: int, seed: int) -> list[dict[str, Any]]:
    """At most `limit` of the rows, drawn at random: a prompt has many pairs, and they say much the same."""
    if len(rows) <= limit:
        return rows
    drawn = np.random.default_rng(derive(seed, "dpo pairs")).choice(len(rows), limit, replace=False)
    return [rows[row] for row in sorted(drawn)]


def _encode(algorithm: DirectAlgorithm, chat: Chat, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
    """The rows as tokens; all methods but KTO need pairs."""
    examples = [encode_example(chat, row) for row in rows]
    single = sum(len(example) == 1 for example in examples)
    if single and not isinstance(algorithm, Kto):
        raise PreflowError(
            f"{single} of {len(rows)} rows hold one labelled completion, expected pairs for `{algorithm.name}`: "
            "set dpo.algorithm to kto"
        )
    return examples


def _most_tokens(
    config: DirectAlignment, algorithm: DirectAlgorithm, policy: Policy, examples: Sequence[Example]
) -> int:
    """Tokens of the longest sequence that can be asked about. Raises PreflowError where an example exceeds a pass."""
    sides = 1 if isinstance(algorithm, Kto) else 2  # of a pair both go through together, as long as the longer one
    longest = max((sides * one.tokens for example in examples for one in example), default=0)
    check_room("the longest example", longest, config.max_batch_tokens, "dpo")
    positions = room(policy.model)
    return min(positions, config.max_batch_tokens)


def _lesson(algorithm: DirectAlgorithm, examples: list[Example], most_tokens: int) -> Lesson:
    if not isinstance(algorithm, Kto):
        return Lesson(examples, [])
    judged = [one for example in examples for one in example]
    return Lesson([(one,) for one in judged], mismatched(judged, most_tokens))


def _asked(lessons: Iterable[Lesson]) -> dict[str, Labelled]:
    """Every completion whose reference log-probability some lesson needs, once, in a fixed order."""
    found: dict[str, Labelled] = {}
    for lesson in lessons:
        for one in (*(one for example in lesson.examples for one in example), *lesson.mismatched):
            found.setdefault(one.key, one)
    return found


def _reference(
    config: DirectAlignment, policy: Policy, asked: Mapping[str, Labelled], folder: Path, scratch: Path
) -> Reference:
    """log π_ref of every completion that is asked about, from `scratch` where these weights answered before.

    `policy` is not trained yet; a new adapter changes nothing. Of several processes the first has the file.
    """
    key = sha256("".join([digest(folder), *asked]).encode()).hexdigest()[:16]
    path = scratch / f"reference-{key}.safetensors"
    group = distributed.group()
    known: list[float] | None = group.told(lambda: load_file(path)["logprobs"].tolist() if path.exists() else None)
    if known is None:
        found = _summed_logprobs(config, policy, list(asked.values()))
        draft = path.with_suffix(".tmp")
        save_file({"logprobs": found}, draft)
        draft.replace(path)
        known = found.tolist()
    return dict(zip(asked, known, strict=True))


@spent("score")
@torch.no_grad()
def _summed_logprobs(config: DirectAlignment, policy: Policy, judged: Sequence[Labelled]) -> Tensor:
    """log π(completion|prompt) of each, [len(judged)]; several processes take a share each."""
    singles, group = [(one,) for one in judged], distributed.group()
    found = torch.zeros(len(singles))
    for rows in group.share(example_micro_batches(singles, config.max_batch_tokens)):
        batch, _ = example_batch([singles[row] for row in rows], policy.chat.pad_id)
        found[rows] = token_logprobs(policy.model, batch).sum(dim=1)
    group.add_up([found])
    return found


def _step(
    config: DirectAlignment, algorithm: DirectAlgorithm, policy: Policy, lesson: Lesson, reference: Reference
) -> StepBatch[MicroBatch]:
    """Micro-batches of a lesson; what must not depend on how it is cut, KTO's baseline, is computed before."""
    baseline, metrics = 0.0, {}
    if isinstance(algorithm, Kto):
        current = _summed_logprobs(config, policy, lesson.mismatched)
        baseline = kto_baseline(current, torch.tensor([reference[one.key] for one in lesson.mismatched]))
        metrics = {"baseline": baseline}
    micro_batches = []
    for rows in example_micro_batches(lesson.examples, config.max_batch_tokens):
        examples = [lesson.examples[row] for row in rows]
        batch, desirable = example_batch(examples, policy.chat.pad_id)
        keys = [one.key for side in zip(*examples, strict=True) for one in side] if reference else []
        known = torch.tensor([reference[key] for key in keys]) if reference else torch.zeros(len(desirable))
        micro_batches.append(MicroBatch(batch, desirable, known, baseline))
    return StepBatch(micro_batches, denominator=len(lesson.examples), metrics=metrics)


@spent("score")
@torch.no_grad()
def _measure(algorithm: DirectAlgorithm, policy: Policy, step: StepBatch[MicroBatch]) -> dict[str, float]:
    """Means over the examples of the loss and of everything that training logs."""
    collected: dict[str, list[Tensor]] = {}
    for micro_batch in step.micro_batches:
        values, metrics = loss_of(algorithm, policy.model, micro_batch)
        for name, parts in ({"loss": values} | metrics).items():
            collected.setdefault(name, []).append(parts)
    means = {name: torch.cat(parts) for name, parts in collected.items()}
    return dict(step.metrics) | {name: values.mean().item() for name, values in means.items() if len(values)}


if __name__ == "__main__":
    main(dpo)
