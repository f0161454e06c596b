"""Stage `sft`: instruction tuning, −(1/N) Σ_{t ∈ assistant} log π(x_t | x_<t) (RLHF book, chapter 4).

In: demonstrations (train and val) and the base policy. Out: `policy/` and `metrics.json`. What to look at:
`sft/val_nll`, the stop rate before and after, and the table of answers to the same prompts before and after.

    python -m tasks.sft --help
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.chat import Chat
from rlhf.checkpoints import Checkpoints
from rlhf.errors import PreflowError
from rlhf.models import Policy, load_policy, save_policy
from rlhf.optimizer import OptimizerSettings
from rlhf.records import read_rows, write_json
from rlhf.sampler import sample
from rlhf.supervised import Sequences, fit_supervised, mean_nll
from tasks.config.sft import Sft
from tasks.journal import Log
from tasks.stage import main

Rows = Sequence[dict[str, Any]]


def sft(config: Sft, *, seed: int, demonstrations: Path, base: Path, out: Path, scratch: Path, log: Log) -> None:
    """Train on the train demonstrations, measure on the val ones; the first lines of the module name the files."""
    policy = load_policy(base)
    train, val = list(read_rows(demonstrations / "train.jsonl")), list(read_rows(demonstrations / "val.jsonl"))
    sequences, held_out = _encode(config, policy.chat, train), _encode(config, policy.chat, val)
    before = _answers(config, policy, val, seed)
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
        ),
        seed=seed,
        name="sft",
        checkpoints=Checkpoints(scratch / "checkpoints", every=config.checkpoint_every),
        log=log,
        progress=log.progress,
    )
    after = _answers(config, policy, val, seed)
    log.table("sft_samples", _side_by_side(val, before, after))
    metrics = {
        "demonstrations": float(len(sequences)),
        "dropped_long": float(len(train) - len(sequences)),
        "stop_rate_before": _stop_rate(before),
        "stop_rate": _stop_rate(after),
        "val_nll": mean_nll(policy, held_out, config.max_batch_tokens),
    }
    log({f"sft/{name}": value for name, value in metrics.items()}, result.steps)
    save_policy(policy, out / "policy")
    write_json(out / "metrics.json", metrics)


def _encode(config: Sft, chat: Chat, rows: Rows) -> Sequences:
    encoded = [chat.encode_conversation(row["messages"], config.loss_on) for row in rows]
    kept = [(ids, mask) for ids, mask in encoded if len(ids) <= config.max_tokens]
    if not kept:
        raise PreflowError(
            f"0 of {len(rows)} demonstrations have at most sft.max_tokens={config.max_tokens} tokens: raise it"
        )
    return kept


def _answers(config: Sft, policy: Policy, rows: Rows, seed: int) -> list[tuple[str, str]]:
    """(text, stop reason) of one sampled answer to the prompt of each of the first rows."""
    prompts = [policy.chat.encode_prompt(row["messages"][:-1]) for row in rows[: config.num_samples]]
    room = policy.model.config.max_position_embeddings - max(map(len, prompts))
    completions = sample(
        policy,
        prompts,
        max_new_tokens=min(config.max_new_tokens, room),
        temperature=1.0,
        group_size=1,
        seed=seed,
    )
    return [(policy.chat.decode(one.ids), one.stop_reason) for one in completions]


def _stop_rate(answers: Sequence[tuple[str, str]]) -> float:
    return sum(reason == "stop" for _, reason in answers) / len(answers)


def _side_by_side(
    rows: Rows, before: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]]
) -> list[dict[str, str]]:
    return [
        {
            "prompt": row["messages"][-2]["content"],
            "demonstration": row["messages"][-1]["content"],
            "base": old,
            "sft": new,
        }
        for row, (old, _), (new, _) in zip(rows, before, after, strict=False)
    ]


if __name__ == "__main__":
    main(sft)
