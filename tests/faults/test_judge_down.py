"""A judge that goes away, hangs or talks nonsense: what it did not say is no reward, and nothing is asked twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DependencyDown, PreflowError
from rlhf.judge import Server
from tasks.replies import Replies
from tests.faults import stub_judge
from tests.faults.stub_judge import Fault, Judge
from tests.tasks import small_rl, tiny

QUESTION = [{"role": "user", "content": "q\n<answer A>\nred\n</answer A>\n<answer B>\nblue\n</answer B>"}]


@pytest.fixture
def judge() -> Iterator[Judge]:
    with stub_judge.judge() as found:
        yield found


def learn(judge: Judge, inputs: dict[str, Path], folder: Path) -> None:
    """RL for six updates, rewarded by the judge alone; a checkpoint after each third."""
    about = {"url": judge.url, "model": "toy", "attempts": 1, "parallel": 1, "timeout_seconds": 10.0}
    rewards: dict[str, Any] = {"reward_model": 0.0, "judge": 1.0, "judge_server": about}
    small_rl.run(inputs, folder, num_updates=6, val_every=6, checkpoint_every=3, select_best=False, rewards=rewards)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    found = small_rl.save_inputs(tmp_path)
    return {name: path for name, path in found.items() if name not in ("reward_model", "held_out", "reward_metrics")}


@pytest.mark.faults(
    27,
    injected="the judge goes away in the middle of RL, between two checkpoints, and comes back",
    happens="the stage ends with DependencyDown; typed again it asks nothing twice and ends in the unbroken bytes",
)
def test_what_it_has_said_is_not_asked_again(judge: Judge, inputs: dict[str, Path], tmp_path: Path) -> None:
    learn(judge, inputs, tmp_path / "unbroken")
    expected, asked = tiny.contents(tmp_path / "unbroken/out"), judge.asked.copy()
    assert len(asked) > 100 and set(asked.values()) == {1}
    judge.asked.clear()
    judge.requests, away = 0, int(0.75 * len(asked))
    judge.faults = lambda number: "503" if number > away else ""
    folder = tmp_path / "broken"
    with pytest.raises(DependencyDown, match=r"did not answer .*HTTP 503"):
        learn(judge, inputs, folder)
    assert not (folder / "out/policy").exists()
    with (folder / "scratch/replies.jsonl").open("a") as file:
        file.write('["torn by a ki')  # as kill -9 would leave it
    judge.faults = lambda number: ""
    (folder / "out").rmdir()
    learn(judge, inputs, folder)
    assert tiny.contents(folder / "out") == expected
    assert judge.asked == asked


@pytest.mark.faults(
    27,
    injected="a judge that hangs, or drops the connection",
    happens="asked again a bounded number of times, then DependencyDown",
)
@pytest.mark.parametrize("fault", ["hang", "drop"])
def test_one_that_hangs_or_hangs_up_is_left(judge: Judge, fault: Fault) -> None:
    judge.faults = lambda number: fault
    server = Server(judge.url, "toy", timeout_seconds=0.1, attempts=3, pause_seconds=0.0)
    with pytest.raises(DependencyDown, match=r"did not answer in 3 attempts of 0\.1 s each \(.+\): start it"):
        server.ask(QUESTION)
    assert judge.requests == 3
    judge.faults = lambda number: "" if number > 4 else fault
    assert server.ask(QUESTION).endswith("[[B]]")


@pytest.mark.faults(
    27,
    injected="a judge that answers with something else than a chat completion, once and for good",
    happens="asked again a bounded number of times, then refused with the beginning of what it said; it is not kept",
)
def test_nonsense_is_no_reply(judge: Judge, tmp_path: Path) -> None:
    judge.faults = lambda number: "garbage" if number <= 4 else ""
    replies = Replies(Server(judge.url, "toy", attempts=3, pause_seconds=0.0).ask, tmp_path / "replies.jsonl")
    with pytest.raises(PreflowError, match=r"the judge at .* answered 3 times with no chat completion: <html>"):
        replies(QUESTION)
    assert judge.requests == 3 and not (tmp_path / "replies.jsonl").exists()
    assert [replies(QUESTION), replies(QUESTION)] == ["[[B]]"] * 2
    assert judge.requests == 5  # of the fourth it was nonsense once more
