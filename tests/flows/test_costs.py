"""What a run says of its cost: after its last line and on its page, for stages that ran and those that were cached."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import costs
from flows.page import render
from flows.request import Report
from tasks.costs import KINDS
from tests.flows.page_run import make_run
from tests.flows.toy import REPO, git

SPLIT = {"sample": 1.0, "score": 0.5, "train": 8.0, "save": 0.25, "other": 0.25, "orchestration": 2.0}
COST = {f"seconds_{kind}": seconds for kind, seconds in SPLIT.items()} | {
    **{"seconds": 12.0, "tokens_processed": 1.2e6, "tokens_trained": 9e5, "tokens_sampled": 812.0, "flops": 2.5e12},
    **{"tokens_per_second": 1.2e5, "matmul_share": 0.34, "peak_memory_gib": 0.75},
}


def report() -> Report:
    stages = [("sft", "cached", 0.0), ("rl", "ran", 12.0), ("gate", "skipped", 0.0)]
    told: list[dict[str, Any]] = [{"name": name, "state": state, "seconds": spent} for name, state, spent in stages]
    return Report("20261128-193000-ab12", stages=told, costs={"sft": COST, "rl": COST})


def printed(width: int) -> list[list[str]]:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(costs.table(report(), plain=True, width=width))
    lines = capture.get().splitlines()
    assert all(len(line.rstrip()) <= width and "…" not in line for line in lines)
    return [line.split() for line in lines]


def test_the_table_tells_now_from_then_and_sums_what_was_spent_now() -> None:
    _, head, sft, rl, gate, summed = printed(120)
    assert head == [*("stage", "seconds", "sample", "score", "train", "save", "other", "around"),
                    *("tokens", "tok/s", "GiB", "TFLOP", "matmul")]  # fmt: skip
    figures = ["1.0", "0.5", "8.0", "0.2", "0.2", "2.0", "1.2M", "120k", "0.75", "2.5", "34%"]
    assert sft == ["sft", "0", "(12.0)", *figures]
    assert rl == ["rl", "12.0", *figures]
    assert gate == ["gate", "0", *["–"] * 11]
    assert summed == ["this", "run", "12.0", *figures[:7], "–", "–", "2.5", "–"]


def test_kinds_of_work_are_left_out_where_they_do_not_fit() -> None:
    few = ["stage", "seconds", "tokens", "tok/s", "GiB", "TFLOP"]
    assert printed(80)[1] == few
    heads = [printed(width)[1] for width in range(60, 130)]
    assert heads[0] == few and len(heads[-1]) == 13
    assert sorted(heads, key=len) == heads and all(head in (few, heads[-1]) for head in heads)


def test_nothing_is_printed_where_nothing_is_known() -> None:
    assert costs.table(Report("x", stages=report().stages), plain=True, width=120) is None


def test_the_page_has_one_section_of_cost_with_the_kinds_in_it(tmp_path: Path) -> None:
    facts = make_run(tmp_path, states={"sft": "cached"})
    facts.about.report.costs = {"sft": COST, "rl": COST}
    text = render.as_html(facts)
    assert text.count('<section id="cost"') == 1
    section = text.partition('<section id="cost"')[2].partition("</section>")[0]
    rows = [row for row in section.split("<tr") if "<td>sft</td>" in row or "<td>rl</td>" in row]
    assert all("812" in row and "900k" in row and "34%" in row for row in rows) and len(rows) == 2
    assert ['class="bar"' in row for row in rows] == [False, True]  # what was spent then is no part of this run's bars
    assert all(f'<i class="{kind}"' in rows[1] for kind in KINDS)


LEARN = """
from pathlib import Path

from pydantic import Field

from rlhf.batching import collate
from rlhf.chat import Chat
from rlhf.models import new_policy, save_policy, token_logprobs
from rlhf.optimizer import OptimizerSettings
from rlhf.trainer import StepBatch, fit
from tasks.config import Section
from tasks.stage import main


class Learn(Section):
    steps: int = Field(3, description="of 10 tokens each")


def learn(config: Learn, *, out: Path) -> None:
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 16, "max_tokens": 16}
    policy = new_policy(Chat.from_words(["a", "b"]), 0, **sizes)
    batch = collate([([1] * 5, [False, True, True, True, True])] * 2, 0)
    fit(
        {"policy": policy.model}, steps=config.steps, batch_at=lambda _: StepBatch([batch], denominator=8.0),
        loss=lambda one: (-token_logprobs(policy.model, one).sum(), {}),
        optimizer=OptimizerSettings(lr=1e-3), seed=0, name="learn",
    )
    save_policy(policy, out / "policy")


if __name__ == "__main__":
    main(learn)
"""
GRAPH = """
stages:
  learn:
    cmd: python learn.py --params learn --out data/learn
    deps: [learn.py]
    params: [learn]
    outs: [data/learn/policy]
"""


@pytest.fixture
def learning(toy: Path) -> Path:
    """A project of one stage, which trains a tiny model."""
    (toy / "learn.py").write_text(LEARN)
    (toy / "dvc.yaml").write_text(GRAPH)
    (toy / "params.yaml").write_text("seed: 0\nthreads: 1\nlearn: {steps: 3}\n")
    shutil.copyfile(REPO / "environment.json", toy / "environment.json")
    git(toy, "add", "-A")
    git(toy, "commit", "-q", "-m", "one stage")
    return toy


def test_a_run_ends_with_what_it_cost_and_the_next_with_what_it_saved(
    learning: Path, program: Callable[..., subprocess.Popen[str]]
) -> None:
    """3 steps of 10 tokens, 8 of them under the loss."""

    def told() -> tuple[dict[str, Any], str]:
        process = program(learning, "run", "--json")
        out, err = process.communicate()
        assert process.returncode == 0, err
        return json.loads(out), err

    first, shown = told()
    lock = (learning / "dvc.lock").read_bytes()
    cost = first["costs"]["learn"]
    assert (cost["tokens_processed"], cost["tokens_trained"], cost["tokens_sampled"]) == (30, 30, 0)
    assert cost["flops"] == 3 * (6 * (4 * 64 + 3 * 128) * 10 + 3 * 4 * 8 * 30 + 6 * 8 * 8 * 8)
    assert min(cost["seconds_train"], cost["seconds_save"]) > 0 and cost["matmul_share"] > 0
    assert sum(cost[f"seconds_{kind}"] for kind in KINDS) == pytest.approx(cost["seconds"])
    assert cost["seconds"] == first["stages"][0]["seconds"]
    row = next(line.split() for line in shown.splitlines() if line.startswith("learn ") and "%" in line)
    assert row[1] == costs.seconds(cost["seconds"])

    second, shown = told()  # nobody kept how long the toy's first run waited: see `Nobody`
    assert [stage["state"] for stage in second["stages"]] == ["cached"]
    waited = ("seconds", "seconds_orchestration", "tokens_per_second")
    assert all(second["costs"]["learn"][name] == value for name, value in cost.items() if name not in waited)
    function = sum(cost[f"seconds_{kind}"] for kind in KINDS if kind != "orchestration")
    assert f"({costs.seconds(function)})" in shown
    assert (learning / "dvc.lock").read_bytes() == lock

    (record,) = (learning / ".preflow" / "journal").glob(f"{first['run']}/learn-1/events.jsonl")
    record.write_text("[]\n")
    assert "learn" not in told()[0]["costs"]
