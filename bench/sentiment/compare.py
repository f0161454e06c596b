"""Policies of both sides on the same held-out openings, by the same examination, as the table of docs/verifiers.md.

python -m bench.sentiment.compare BASE FOLDER [--write docs/verifiers.md]

FOLDER holds ours-SEED, wide-SEED and trl-SEED.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import page
from bench.sentiment.task import STOP, Budget, lexicon, openings
from rlhf import rewards
from rlhf.answers import Drawing
from rlhf.evaluation import Exam, answer, mark
from rlhf.models import Policy, adapt_policy, load_policy
from rlhf.statistics import bootstrap_mean

NAMES = {"ours": "preflow, RLOO", "wide": "preflow, RLOO, 14 openings an update", "trl": "TRL, RLOO"}
SHOWN = {"rule_reward": "compound", "kl": "k1-KL (nats)", "answer_nll": "NLL under the base"}


def exam_of(base: Policy) -> Exam:
    """200 held-out openings, four continuations each."""
    questions = [
        {"id": str(number), "messages": [{"role": "user", "content": text}]}
        for number, text in enumerate(openings()[1])
    ]
    drawing = Drawing(group_size=4, temperature=1.0, max_new_tokens=Budget().new_tokens, batch_size=512, seed=0)
    return Exam(
        questions=questions,
        stable=[],
        drawing=drawing,
        reference=base,
        policy_rm=None,
        held_out_rm=None,
        unfinished_reward=0.0,
        max_batch_tokens=8192,
        rules=rewards.compose({"sentiment": (1.0, rewards.sentiment(base.chat.decode, lexicon()))}),
    )


def measured(exam: Exam, policy: Policy) -> dict[str, str]:
    """Mean and half the width of its 95% interval over openings, of every figure shown."""
    values = mark(exam, *answer(exam, policy))
    cells = {}
    for name in SHOWN:
        found = values[name]
        assert found is not None
        point = bootstrap_mean(found.mean(axis=1), 0, 2000).as_dict()
        cells[name] = f"{point['mean']:.2f} ± {(point['ci_high'] - point['ci_low']) / 2:.2f}"
    return cells


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Markdown."""
    header = ["policy", *SHOWN.values(), "seconds of processor", "by the clock"]
    keys = ["name", *SHOWN, "processor", "clock"]
    return page.table(header, [[row.get(key, "") for key in keys] for row in rows], texts=len(header))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    base = load_policy(arguments.base)
    exam = exam_of(base)
    rows = [{"name": "base"} | measured(exam, base)]
    found = (path.parent for path in arguments.folder.glob("*/seconds.json"))
    for path in sorted(found, key=lambda path: (list(NAMES).index(path.name.rpartition("-")[0]), path.name)):
        side, _, seed = path.name.rpartition("-")
        policy = load_policy(path / "policy") if side != "trl" else adapt_policy(path / "policy", 0, "continue", STOP)
        seconds = json.loads((path / "seconds.json").read_text("utf-8"))
        name = f"{NAMES[side]}, seed {seed}"
        rows.append({"name": name} | measured(exam, policy) | {key: f"{seconds[key]:.0f}" for key in seconds})
    lines = table(rows)
    print("\n".join(lines))
    if arguments.write:
        page.write_between(arguments.write, "sentiment", lines)


if __name__ == "__main__":
    main()
