"""Stage `annotate`: the preferences to learn from, offline ones and pairs sampled from the SFT policy and labelled.

In: the policy, prompts, evaluation prompts, offline preferences, the suites of the gate. Out: `pairs/{train,val,eval}`,
`report/` (what is born here passes the same gate) and `metrics.json`. Prompts of the embedded world are labelled by its
simulated annotators; prompts nobody here can label have offline pairs only. Training pairs come from the preference
pool; those of `eval` are kept as they fell, unfiltered: reward models are measured on them (RLHF book, ch. 10, 11).

    python -m tasks.annotate --help
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.errors import PreflowError
from rlhf.models import Policy, load_policy
from rlhf.records import Row, content_id, in_pool, read_rows, write_json, write_rows
from rlhf.sampler import sample
from rlhf.seeding import derive
from rlhf.world.labels import can_label, label
from tasks.config.annotate import Annotate
from tasks.journal import Log
from tasks.stage import main
from tasks.validation import check_preferences

SPLITS = ("train", "val", "eval")


def annotate(
    config: Annotate,
    *,
    seed: int,
    policy: Path,
    prompts: Path,
    eval_prompts: Path,
    preferences: Path,
    expectations: Path,
    out: Path,
    log: Log,
) -> None:
    """Gather offline pairs, sample and label new ones, pass them through the gate."""
    sampler = load_policy(policy)
    asked = {split: _asked(config, prompts, eval_prompts, split) for split in SPLITS}
    offline = {split: _rows(preferences / f"{split}.jsonl") for split in SPLITS}
    born = {split: _label(config, sampler, asked[split], split, seed, log) for split in SPLITS}
    pairs = {split: _chosen(config, split, offline[split], born[split], sampler) for split in SPLITS}
    clean = check_preferences(
        [*pairs["train"], *pairs["val"]], out / "report", expectations=expectations, stage="annotate"
    )
    for split in ("train", "val"):
        pairs[split] = [row for row in clean if row["split"] == split]
    if not pairs["train"]:
        raise PreflowError(f"0 training pairs are left of {len(offline['train'])} offline ones: see report/report.html")
    for split in SPLITS:
        write_rows(out / "pairs" / f"{split}.jsonl", pairs[split])
    metrics = _metrics(pairs, offline, born)
    log({f"annotate/{name}": value for name, value in metrics.items()}, 0)
    write_json(out / "metrics.json", metrics)


def _asked(config: Annotate, prompts: Path, eval_prompts: Path, split: str) -> list[Row]:
    if split == "eval":
        rows = _rows(eval_prompts / "eval.jsonl")
    elif split == "val":
        rows = _rows(prompts / "val.jsonl")
    else:
        rows = in_pool(_rows(prompts / "train.jsonl"), "preference")[: config.num_prompts]
    return [row for row in rows if can_label(row["meta"])]


def _label(config: Annotate, policy: Policy, rows: Sequence[Row], split: str, seed: int, log: Log) -> list[Row]:
    """Every two different completions of a prompt, compared; in the order of the prompts."""
    if not rows:
        return []
    completions = sample(
        policy,
        [policy.chat.encode_prompt(row["messages"]) for row in rows],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        group_size=config.group_size,
        seed=derive(seed, "annotate", split),
        progress=log.progress,
    )
    answers: list[dict[str, bool]] = [{} for _ in rows]
    for one in completions:
        answers[one.prompt_index].setdefault(policy.chat.decode(one.ids), one.stop_reason == "stop")
    labelled = [
        pair | {"group": row["group"]}
        for row, different in zip(rows, answers, strict=True)
        for pair in label(row, list(different.items()), config.panel, seed)
    ]
    place = {"source": "annotate", "file": f"on_policy/{split}", "split": split}
    return [row | place | {"line": line, "id": content_id(row)} for line, row in enumerate(labelled, start=1)]


def _chosen(config: Annotate, split: str, offline: list[Row], born: list[Row], policy: Policy) -> list[Row]:
    """What the split holds; to measure on, on-policy pairs wherever there are any. Training pairs are of finished
    completions that differ as tokens: an unfinished one has a fixed reward, equal ones teach nothing."""
    if split == "eval":
        return born or offline
    train_on = config.train_on if born else "offline"
    rows = {"on_policy": born, "offline": offline, "both": [*offline, *born]}[train_on]
    encode = policy.chat.encode_completion
    return [
        row for row in rows if all(row.get("stopped", {}).values()) and encode(row["chosen"]) != encode(row["rejected"])
    ]


def _metrics(
    pairs: dict[str, list[Row]], offline: dict[str, list[Row]], born: dict[str, list[Row]]
) -> dict[str, float]:
    metrics: dict[str, float] = {f"{split}_pairs": float(len(rows)) for split, rows in pairs.items()}
    metrics |= {f"offline_{split}_pairs": float(len(rows)) for split, rows in offline.items()}
    metrics |= {f"on_policy_{split}_pairs": float(len(rows)) for split, rows in born.items()}
    longer = [np.sign(len(row["chosen"]) - len(row["rejected"])) for row in pairs["train"]]
    metrics["chosen_longer"] = float(0.5 + 0.5 * np.mean(longer))
    measured = [row for row in pairs["eval"] if "gold" in row]
    if measured:
        metrics["ceiling"] = float(np.mean([row["confidence"] for row in measured]))
        metrics["agreement_with_gold"] = float(np.mean([_agrees(row["gold"]) for row in measured]))
    return metrics


def _agrees(gold: dict[str, float]) -> float:
    """1 where the annotator chose what gold prefers, ½ where gold has no preference."""
    return 0.5 + 0.5 * float(np.sign(gold["chosen"] - gold["rejected"]))


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(read_rows(path)) if path.exists() else []


if __name__ == "__main__":
    main(annotate)
