"""Stage `dpo`: direct alignment on preference pairs, −log σ(β[log π/π_ref(chosen) − log π/π_ref(rejected)]).

In: the policy to start from, which is also the reference, and pairs (train and val). Out: `policy/` and `metrics.json`.
Differs from the paper (Rafailov et al., 2305.18290) in that the reference's log-probabilities are computed once and
kept; they are the same numbers. Of the train pairs only those of the half "policy" are used: the held-out reward model,
which judges runs without gold, must not have been fitted on what a candidate was trained on. What to look at:
`dpo/val_accuracy`, and `dpo/displacement`, which below 0 says that the chosen completions became LESS likely too.

    python -m tasks.dpo --help
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.batching import Batch
from rlhf.checkpoints import Checkpoints
from rlhf.epochs import num_steps, rows_at
from rlhf.losses.direct_alignment import dpo as dpo_loss
from rlhf.models import Policy, load_policy, save_policy, token_logprobs
from rlhf.pairs import Pair, encode_pairs, pair_batch, pair_micro_batches, split_sides
from rlhf.records import read_rows, write_json
from rlhf.seeding import derive
from rlhf.trainer import Metrics, OptimizerSettings, StepBatch, fit
from tasks.config.dpo import Dpo
from tasks.journal import Log
from tasks.stage import main

MicroBatch = tuple[Batch, Tensor]
"""2B sequences, chosen first, and the reference's summed log-probabilities of them [2B]."""


def dpo(config: Dpo, *, seed: int, policy: Path, pairs: Path, out: Path, scratch: Path, log: Log) -> None:
    """Train on the train pairs, measure on the val pairs; the first lines of the module name the files."""
    learner = load_policy(policy)
    half = [row for row in read_rows(pairs / "train.jsonl") if row["half"] == "policy"]
    train = _some(encode_pairs(learner.chat, half), config.max_pairs, seed)
    val = encode_pairs(learner.chat, read_rows(pairs / "val.jsonl"))
    reference = _reference_logprobs(config, learner, [*train, *val], policy, scratch)

    def batch_at(step: int) -> StepBatch[MicroBatch]:
        rows = rows_at(step, len(train), config.batch_size, seed)
        chosen = [train[row] for row in rows]
        return StepBatch(_micro_batches(config, learner, chosen, reference[rows]), denominator=len(rows))

    def loss(micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        losses, metrics = _loss(config, learner, micro_batch)
        return losses.sum(), metrics

    result = fit(
        {"policy": learner.model},
        steps=num_steps(len(train), config.batch_size, config.epochs),
        batch_at=batch_at,
        loss=loss,
        optimizer=OptimizerSettings(lr=config.lr, warmup_steps=config.warmup_steps, max_grad_norm=config.max_grad_norm),
        seed=seed,
        name="dpo",
        checkpoints=Checkpoints(scratch / "checkpoints", every=config.checkpoint_every),
        log=log,
        progress=log.progress,
    )
    measured = _measure(config, learner, val, reference[len(train) :])
    log({f"dpo/val_{name}": value for name, value in measured.items()}, result.steps)
    save_policy(learner, out / "policy")
    write_json(
        out / "metrics.json",
        {"pairs": len(train), "val_pairs": len(val), "steps": result.steps, "nonfinite": result.nonfinite}
        | {f"val_{name}": value for name, value in measured.items()},
    )


def _some(pairs: list[Pair], limit: int, seed: int) -> list[Pair]:
    """At most `limit` of the pairs, drawn at random: a prompt has many, and they say much the same."""
    if len(pairs) <= limit:
        return pairs
    drawn = np.random.default_rng(derive(seed, "dpo pairs")).choice(len(pairs), limit, replace=False)
    return [pairs[row] for row in sorted(drawn)]


def _reference_logprobs(config: Dpo, reference: Policy, pairs: Sequence[Pair], folder: Path, scratch: Path) -> Tensor:
    """log π_ref(completion) of chosen and rejected, [pairs, 2], from `scratch` where these weights did these pairs."""
    digest = sha256((folder / "model.safetensors").read_bytes())
    digest.update(repr([(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) for pair in pairs]).encode())
    path = scratch / f"reference-{digest.hexdigest()[:16]}.safetensors"
    if not path.exists():
        found = torch.empty(len(pairs), 2)
        with torch.no_grad():
            for rows in pair_micro_batches(pairs, config.max_batch_tokens):
                batch = pair_batch([pairs[row] for row in rows], reference.chat.pad_id)
                chosen, rejected = split_sides(token_logprobs(reference.model, batch).sum(dim=1))
                found[rows] = torch.stack([chosen, rejected], dim=1)
        draft = path.with_suffix(".tmp")
        save_file({"logprobs": found}, draft)
        draft.replace(path)
    return load_file(path)["logprobs"]


def _micro_batches(config: Dpo, policy: Policy, pairs: Sequence[Pair], reference: Tensor) -> list[MicroBatch]:
    return [
        (pair_batch([pairs[row] for row in rows], policy.chat.pad_id), reference[rows].T.reshape(-1))
        for rows in pair_micro_batches(pairs, config.max_batch_tokens)
    ]


def _loss(config: Dpo, policy: Policy, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
    batch, ref_logprobs = micro_batch
    logprobs = token_logprobs(policy.model, batch).sum(dim=1)  # [2B]
    losses, metrics = dpo_loss(*split_sides(logprobs), *split_sides(ref_logprobs), config.beta, config.label_smoothing)
    chosen, rejected = split_sides(logprobs.detach() / batch.loss_mask.sum(dim=1))
    return losses, metrics | {
        "chosen_logprob": chosen,
        "rejected_logprob": rejected,
    }  # means over a completion's tokens


@torch.no_grad()
def _measure(config: Dpo, policy: Policy, pairs: Sequence[Pair], reference: Tensor) -> dict[str, float]:
    """Means over the pairs of the loss and of everything that training logs."""
    collected: dict[str, list[Tensor]] = {}
    for micro_batch in _micro_batches(config, policy, pairs, reference):
        losses, metrics = _loss(config, policy, micro_batch)
        for name, values in ({"loss": losses} | metrics).items():
            collected.setdefault(name, []).append(values)
    return {name: torch.cat(parts).mean().item() for name, parts in collected.items()}


if __name__ == "__main__":
    main(dpo)
