"""Orders come through a server: none leads a worker out of its folders."""

import pytest

from flows.pools.orders import REFS, Order

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
