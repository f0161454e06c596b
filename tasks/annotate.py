"""Stage `annotate`: the preferences to learn from, offline ones and pairs sampled from the SFT policy and labelled.

In: the policy, prompts, evaluation prompts, offline preferences, the suites of the gate. Out: `pairs/{train,val,eval}`,
`report/` (what is born here passes the same gate) and `metrics.json`. Prompts of the embedded world are labelled by its
simulated annotators; prompts nobody here can label have offline pairs only. Training pairs come from the preference
pool; those of `eval` are kept as they fell, unfiltered: reward models are measured on them (RLHF book, ch. 10, 11).
Every train pair belongs to a `half`, by its question: "policy" for what is optimised, "held_out" for what judges it.

    python -m tasks.annotate --help
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlhf.errors import PreflowError
from rlhf.models import Policy, load_policy
from rlhf.records import Row, content_id, in_pool, read_rows, split_of, write_json, write_rows
from rlhf.sampler import sample
from rlhf.seeding import derive
from rlhf.world.labels import can_label, label
from tasks.ahead import import_ahead
from tasks.config.annotate import Annotate
from tasks.config.generation import Generation
from tasks.config.validate import Validate
from tasks.config.withdraw import Withdraw
from tasks.journal import Log
from tasks.pairs import fitting_pairs
from tasks.prompts import prefixed, usable_prompts
from tasks.stage import main
from tasks.validation import check_preferences

SPLITS = ("train", "val", "eval")
HALVES = ("policy", "held_out")
NONE = Withdraw()


def annotate(
    config: Annotate,
    *,
    generation: Generation,
    validate: Validate,
    withdraw: Withdraw = NONE,
    seed: int,
    policy: Path,
    prompts: Path,
    eval_prompts: Path,
    preferences: Path,
    expectations: Path,
    out: Path,
    log: Log,
) -> None:
    """Gather offline pairs, sample and label new ones, leave out what is withdrawn, pass them through the gate."""
    sampler = load_policy(policy)
    import_ahead("great_expectations")  # after transformers, whose imports it shares some of
    questions = {split: list(read_rows(prompts / f"{split}.jsonl")) for split in ("train", "val")}
    questions["eval"] = list(read_rows(eval_prompts / "eval.jsonl"))
    offline = {split: list(read_rows(preferences / f"{split}.jsonl")) for split in SPLITS}
    dropped: dict[str, float] = {}
    pairs, born = {}, {}
    for split in SPLITS:
        asked, counts = _asked(config, generation, sampler, questions[split], split)
        dropped |= prefixed(counts, f"{split}_prompts")
        labelled = _label(config, generation, sampler, asked, split, seed, log)
        born[split] = [row for row in labelled if not withdraw.reason(row)]
        if len(born[split]) < len(labelled):
            dropped[f"{split}_pairs_withdrawn"] = float(len(labelled) - len(born[split]))
        held, equal = _held(config, split, offline[split], born[split], sampler)
        fit = fitting_pairs(held, sampler)
        pairs[split], counts = [row for row, _ in fit.kept], fit.dropped
        dropped |= prefixed(counts | {"dropped_equal": float(equal)}, f"{split}_pairs")
    if pairs["train"]:
        given = [*pairs["train"], *pairs["val"]]
        protected = [*questions["eval"], *questions["val"], *offline["eval"]]
        clean = check_preferences(
            given, out / "report", validate, expectations=expectations, protected=protected, stage="annotate"
        )
        for split in ("train", "val"):
            pairs[split] = [row for row in clean if row["split"] == split]
    pairs["train"] = _halved(config, pairs["train"], offline["train"], born["train"])
    for split in SPLITS:
        write_rows(out / "pairs" / f"{split}.jsonl", pairs[split])
    metrics = _metrics(pairs, offline, born) | dropped
    log({f"annotate/{name}": value for name, value in metrics.items()}, 0)
    write_json(out / "metrics.json", metrics)


def _asked(
    config: Annotate, generation: Generation, policy: Policy, rows: Sequence[Row], split: str
) -> tuple[list[Row], dict[str, float]]:
    """Prompts to sample for, of those that can be labelled here; there may be none."""
    rows = [row for row in rows if can_label(row["meta"])]
    rows = in_pool(rows, "preference") if split == "train" else rows
    if not rows:
        return [], {}
    limit = config.num_prompts if split == "train" else None
    return usable_prompts(rows, policy, generation.max_new_tokens, limit=limit)


def _label(
    config: Annotate,
    generation: Generation,
    policy: Policy,
    rows: Sequence[Row],
    split: str,
    seed: int,
    log: Log,
) -> list[Row]:
    """Every two different completions of a prompt, compared; in the order of the prompts."""
    if not rows:
        return []
    completions = sample(
        policy,
        [policy.chat.encode_prompt(row["messages"]) for row in rows],
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        group_size=config.group_size,
        seed=derive(seed, "annotate", split),
        batch_size=generation.batch_size,
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


def _held(config: Annotate, split: str, offline: list[Row], born: list[Row], policy: Policy) -> tuple[list[Row], int]:
    """What the split holds; to measure on, on-policy pairs wherever there are any. Training pairs are of finished
    completions that differ as tokens: an unfinished one has a fixed reward, equal ones teach nothing. These last are
    counted."""
    if split == "eval":
        return born or offline, 0
    train_on = config.train_on if born else "offline"
    rows = {"on_policy": born, "offline": offline, "both": [*offline, *born]}[train_on]
    encode = policy.chat.encode_completion
    finished = [row for row in rows if _finished(row)]
    held = [row for row in finished if encode(row["chosen"]) != encode(row["rejected"])]
    return held, len(finished) - len(held)


def _finished(row: Row) -> bool:
    return all(row.get("stopped", {}).values())


def _halved(config: Annotate, rows: Sequence[Row], offline: Sequence[Row], born: Sequence[Row]) -> list[Row]:
    """Train pairs with their half: by the hash of the group, so no question is in both, nor moves when rows come.

    Raises PreflowError where a half is empty.
    """
    shares = {"train": 1 - config.held_out_share, "val": config.held_out_share}
    side = {"train": "policy", "val": "held_out"}
    halved = [row | {"half": side[split_of(f"half {row['group']}", shares)]} for row in rows]
    counts = {half: sum(row["half"] == half for row in halved) for half in HALVES}
    if not all(counts.values()):
        unfinished = sum(not _finished(row) for row in born)
        raise PreflowError(
            f"{len(rows)} training pairs are left ({', '.join(f'{half}: {n}' for half, n in counts.items())}; both are "
            f"needed) of {len(offline)} offline and {len(born)} on-policy ones, {unfinished} of which have a side that "
            f"was cut off, with annotate.train_on={config.train_on}: "
            "change it, raise generation.max_new_tokens or annotate.num_prompts, or give more preferences"
        )
    return halved


def _metrics(
    pairs: Mapping[str, list[Row]], offline: Mapping[str, list[Row]], born: Mapping[str, list[Row]]
) -> dict[str, float]:
    metrics: dict[str, float] = {f"{split}_pairs": float(len(rows)) for split, rows in pairs.items()}
    metrics |= {f"offline_{split}_pairs": float(len(rows)) for split, rows in offline.items()}
    metrics |= {f"on_policy_{split}_pairs": float(len(rows)) for split, rows in born.items()}
    metrics |= {f"{half}_half_pairs": float(sum(row["half"] == half for row in pairs["train"])) for half in HALVES}
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


if __name__ == "__main__":
    main(annotate)
