"""A few rows with a life: pairs of two annotators, one of them set aside, one held for measuring."""

from typing import Any

from tests.flows.archive import Files

ADA, BEN, HELD, VAL, SPOILT = ("a" * 16, "b" * 16, "c" * 16, "d" * 16, "e" * 16)


def pair(identity: str, annotator: str, split: str, line: int) -> dict[str, Any]:
    return {
        "id": identity,
        "group": f"group {line}",
        "messages": [{"role": "user", "content": f"question {line}"}],
        "chosen": f"the good answer to {line}",
        "rejected": f"the bad answer to {line}",
        "annotator": annotator,
        "source": "world",
        "file": "preferences/pairs.jsonl",
        "line": line,
        "split": split,
    }


PAIRS = [
    pair(ADA, "ada", "train", 1),
    pair(BEN, "ben", "train", 2),
    pair(HELD, "ada", "train", 3),
    pair(VAL, "ben", "val", 4),
    pair(SPOILT, "ben", "train", 5),
]
FINDING = {
    **{"kind": "preferences", "rule": "equal_sides", "severity": "quarantine", "reason": "both sides are one text"},
    **{"file": "preferences/pairs.jsonl", "line": 5, "id": SPOILT, "split": "train", "excerpt": "question 5"},
}


def outs(without: str = "") -> dict[str, Files]:
    """What a run writes of these rows, less those of one annotator."""
    rows = [row for row in PAIRS if row["annotator"] != without]
    clean = [row for row in rows if row["id"] != SPOILT]
    halves = {ADA: "policy", BEN: "policy", HELD: "held_out"}
    train = [row | {"half": halves[row["id"]]} for row in clean if row["split"] == "train"]
    val = [row for row in clean if row["split"] == "val"]
    raw = [{key: row[key] for key in ("messages", "chosen", "rejected", "annotator")} for row in rows]
    found = [FINDING] if SPOILT in {row["id"] for row in rows} else []
    return {
        "data/01_raw/preferences": {"pairs.jsonl": raw, "origin.json": "{}"},
        "data/02_prepared/preferences": {"rows.jsonl": rows},
        "data/03_validated/preferences": {
            "train.jsonl": [row for row in clean if row["split"] == "train"],
            "val.jsonl": val,
            "eval.jsonl": [],
        },
        "data/03_validated/report": {"quarantine.jsonl": found, "report.html": "preferences/pairs.jsonl:5"},
        "data/06_preferences/pairs": {"train.jsonl": train, "val.jsonl": val, "eval.jsonl": []},
    }
