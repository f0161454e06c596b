"""Stage `base`: the model that everything starts from.

In: the corpus (`source: scratch`) or a pretrained checkpoint (`source: checkpoint`). Out: `policy/`, a causal language
model with a chat template, and `metrics.json`. From scratch it is a tiny Llama over the words of the corpus, trained on
next-token prediction, −(1/N) Σ log π(x_t | x_<t) over every token (RLHF book, chapter 3 and appendix A). A checkpoint
is not trained: it keeps its own chat template, or gets the role, stop and pad tokens it lacks.

    python -m tasks.base --help
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhf.chat import Chat, split_words
from rlhf.checkpoints import Checkpoints
from rlhf.errors import PreflowError
from rlhf.models import Policy, adapt_policy, new_policy, room, save_policy
from rlhf.optimizer import OptimizerSettings
from rlhf.records import read_rows, write_json
from rlhf.supervised import fit_supervised, mean_nll
from tasks.config.base import Base
from tasks.journal import Log
from tasks.prompts import Fitting, fitting
from tasks.stage import main


def base(config: Base, *, corpus: Path, checkpoint: Path, out: Path, scratch: Path, log: Log) -> None:
    """Make the base policy; the first lines of the module name the files."""
    if config.source == "checkpoint":
        policy, metrics = _adapted(config, checkpoint)
    else:
        policy, metrics = _from_scratch(config, corpus, scratch, log)
    metrics["parameters"] = float(sum(parameter.numel() for parameter in policy.model.parameters()))
    save_policy(policy, out / "policy")
    write_json(out / "metrics.json", metrics)


def _adapted(config: Base, checkpoint: Path) -> tuple[Policy, dict[str, float]]:
    policy = adapt_policy(checkpoint, config.seed, config.template, config.stop_token, trusted=config.trust_remote_code)
    return policy, {"adapted": 1.0, "room": float(room(policy.model)), "roles": float(len(policy.chat.roles))}


def _from_scratch(config: Base, corpus: Path, scratch: Path, log: Log) -> tuple[Policy, dict[str, float]]:
    train, val = (list(read_rows(corpus / f"{split}.jsonl")) for split in ("train", "val"))
    if not train:
        raise PreflowError("the corpus has 0 train documents: collect some, or set base.source=checkpoint")
    chat = Chat.from_words(_words([*train, *val]))
    policy = new_policy(
        chat,
        config.seed,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        max_tokens=config.max_tokens,
    )
    fit = _documents(config, chat, train)
    documents = fit.tokens
    result = fit_supervised(
        policy,
        documents,
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_batch_tokens=config.max_batch_tokens,
        optimizer=OptimizerSettings(
            lr=config.lr,
            matrix_lr=config.matrix_lr,
            betas=(0.9, 0.99),
            warmup_steps=config.warmup_steps,
            schedule="cosine",
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        ),
        seed=config.seed,
        name="base",
        checkpoints=Checkpoints(
            scratch / "checkpoints", every=config.checkpoint_every, of={"vocabulary": policy.chat.fingerprint}
        ),
        log=log,
        progress=log.progress,
        halved=True,  # no other stage is at work meanwhile
    )
    tokens = sum(len(ids) for ids, _ in documents) * config.epochs
    metrics = {"documents": float(len(documents)), "tokens": float(tokens), "steps": float(result.steps)}
    metrics |= fit.dropped
    if val:
        metrics["val_nll"] = mean_nll(policy, _documents(config, chat, val).tokens, config.max_batch_tokens)
        log({"base/val_nll": metrics["val_nll"]}, result.steps)
    return policy, metrics


def _documents(config: Base, chat: Chat, rows: Iterable[dict[str, Any]]) -> Fitting[tuple[list[int], list[bool]]]:
    """Documents that the model has positions for: past them it would be trained on places it cannot tell apart."""
    return fitting(
        "documents",
        rows,
        chat,
        lambda row: _document(chat, row),
        lambda encoded: len(encoded[0]),
        config.max_tokens,
        f"base.max_tokens={config.max_tokens}",
    )


def _document(chat: Chat, row: dict[str, Any]) -> tuple[list[int], list[bool]]:
    """Every token but the first is trained. A dialogue that runs on has no stop tokens: base is not to know when to."""
    if "text" in row:
        ids = chat.encode_document(row["text"])
    else:
        ids, _ = chat.encode_conversation(row["messages"], "all", stops=not row.get("run_on", False))
    return ids, [False, *[True] * (len(ids) - 1)]


def _words(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The vocabulary: every word of the corpus, sorted."""
    texts = (text for row in rows for text in _texts(row))
    return sorted({word for text in texts for word in split_words(text)})


def _texts(row: dict[str, Any]) -> list[str]:
    return [row["text"]] if "text" in row else [message["content"] for message in row["messages"]]


if __name__ == "__main__":
    main(base)
