"""Stage `sft`: instruction tuning, −(1/N) Σ_{t ∈ assistant} log π(x_t | x_<t) (RLHF book, chapter 4).

In: demonstrations (train and val) and the base policy. Out: `policy/` and `metrics.json`. What to look at:
`sft/val_nll`, the stop rate before and after, and the table of answers to the same prompts before and after.

    python -m tasks.sft --help
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.checkpoints import Checkpoints
from rlhf.errors import PreflowError
from rlhf.models import Policy, room, save_policy, trainable
from rlhf.optimizer import OptimizerSettings
from rlhf.records import read_rows, write_json
from rlhf.sampler import sample
from rlhf.supervised import Sequences, fit_supervised, mean_nll
from tasks.config.generation import Generation
from tasks.config.sft import Sft
from tasks.config.training import FULL, Training
from tasks.journal import Log
from tasks.prompts import fitting, usable_prompts
from tasks.stage import main

Rows = Sequence[dict[str, Any]]


def sft(
    config: Sft,
    *,
    generation: Generation,
    training: Training = FULL,
    seed: int,
    demonstrations: Path,
    base: Path,
    out: Path,
    scratch: Path,
    log: Log,
) -> None:
    """Train on the train demonstrations, measure on the val ones; the first lines of the module name the files."""
    policy = trainable(base, training, seed, "sft")
    train, val = list(read_rows(demonstrations / "train.jsonl")), list(read_rows(demonstrations / "val.jsonl"))
    sequences, dropped = _encode(config, policy, "train", train)
    held_out, _ = _encode(config, policy, "val", val)
    asked = _asked(config, generation, policy, val)
    before = _answers(generation, policy, asked, seed)
    result = fit_supervised(
        policy,
        sequences,
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_batch_tokens=config.max_batch_tokens,
        optimizer=OptimizerSettings(
            lr=config.lr,
            warmup_steps=config.warmup_steps,
            schedule="cosine",
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            kind=training.optimizer,
            shard=training.shard,
        ),
        seed=seed,
        name="sft",
        checkpoints=Checkpoints(
            scratch / "checkpoints", every=config.checkpoint_every, of={"vocabulary": policy.chat.fingerprint}
        ),
        log=log,
        progress=log.progress,
    )
    after = _answers(generation, policy, asked, seed)
    log.table("sft_samples", _side_by_side(asked, before, after))
    metrics = {
        "demonstrations": float(len(sequences)),
        "stop_rate_before": _stop_rate(before),
        "stop_rate": _stop_rate(after),
        "val_nll": mean_nll(policy, held_out, config.max_batch_tokens),
    } | dropped
    log({f"sft/{name}": value for name, value in metrics.items()}, result.steps)
    save_policy(policy, out / "policy")
    write_json(out / "metrics.json", metrics)


def _encode(config: Sft, policy: Policy, split: str, rows: Rows) -> tuple[Sequences, dict[str, float]]:
    """Tokens and loss masks of the demonstrations that fit, and how many did not."""
    if not rows:
        knob = "prepare.val_share" if split == "val" else "collect"
        raise PreflowError(f"the split {split} holds 0 demonstrations, expected at least 1: more data, or see {knob}")
    fit = fitting(
        f"{split} demonstrations",
        rows,
        policy.chat,
        lambda row: policy.chat.encode_conversation(row["messages"], config.loss_on),
        lambda encoded: len(encoded[0]),
        min(config.max_tokens, room(policy.model)),
        f"sft.max_tokens={config.max_tokens}, or all the model's positions",
    )
    return fit.tokens, fit.dropped


def _asked(config: Sft, generation: Generation, policy: Policy, rows: Rows) -> list[dict[str, Any]]:
    """Some val demonstrations without their answer, which is kept beside."""
    questions = [
        {"id": row["id"], "messages": row["messages"][:-1], "answer": row["messages"][-1]["content"]} for row in rows
    ]
    return usable_prompts(questions, policy, generation.max_new_tokens, limit=config.num_samples)[0]


def _answers(generation: Generation, policy: Policy, asked: Rows, seed: int) -> list[tuple[str, str]]:
    """(text, stop reason) of one sampled answer to each question."""
    completions = sample(
        policy,
        [policy.chat.encode_prompt(row["messages"]) for row in asked],
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        group_size=1,
        seed=seed,
        batch_size=generation.batch_size,
    )
    return [(policy.chat.decode(one.ids), one.stop_reason) for one in completions]


def _stop_rate(answers: Sequence[tuple[str, str]]) -> float:
    return sum(reason == "stop" for _, reason in answers) / len(answers)


def _side_by_side(
    rows: Rows, before: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]]
) -> list[dict[str, str]]:
    return [
        {
            "prompt": row["messages"][-1]["content"],
            "demonstration": row["answer"],
            "base": old,
            "sft": new,
        }
        for row, (old, _), (new, _) in zip(rows, before, after, strict=True)
    ]


if __name__ == "__main__":
    main(sft)
