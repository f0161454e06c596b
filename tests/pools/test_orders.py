"""Orders come through a server: none leads a worker out of its folders."""

import json

import pytest

from flows.pools.orders import REFS, Answer, Order
from tasks.outcome import StageResult

GOOD = {
    "run": "20261129-213213-2d56",
    "stage": "rl@ppo-1",
    "ref": f"{REFS}/20261129-213213-2d56/rl@ppo-1",
    "commit": "0" * 40,
    "mail": "mail/20261129-213213-2d56/rl@ppo-1-1",
    "flow_run": "",
}


def test_one_of_ours_is_one() -> None:
    order = Order(**GOOD)  # type: ignore[arg-type]
    assert Order(**order.as_json()) == order


def test_an_answer_travels_as_text() -> None:
    answer = Answer(StageResult("rl", "ran", 1.5), "there", "entry", measured=[("rl, gpu", (2.0, 3.0))])
    assert Answer.of(json.loads(json.dumps(answer.as_json()))) == answer


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "/home/somebody", "ref": f"{REFS}//home/somebody/rl@ppo-1"},
        {"run": "..", "ref": f"{REFS}/../rl@ppo-1"},
        {"stage": "..", "ref": f"{REFS}/{GOOD['run']}/.."},
        {"stage": "a/b", "ref": f"{REFS}/{GOOD['run']}/a/b"},
        {"ref": "refs/heads/main"},
        {"mail": "../checkpoints"},
    ],
)
def test_one_that_leads_elsewhere_is_none(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no order of ours"):
        Order(**GOOD | wrong)  # type: ignore[arg-type]
