"""The rollout store reads back what it wrote, as equal bytes."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.rollouts import Rollout, read_rollouts, write_rollouts

ROLLOUT = Rollout(
    prompt_id="p", group="g", prompt_ids=[2, 3, 4], completion_ids=[9, 5], logprobs=[-0.1, -2.25], stop_reason="stop",
    text="déjà\n\u2028vu", reward=None, policy="abc",
)  # fmt: skip


def test_round_trip_and_bytes(tmp_path: Path) -> None:
    rollouts = [ROLLOUT, replace(ROLLOUT, reward=0.1 + 0.2, logprobs=[-1 / 3, -1e-9])]
    write_rollouts(tmp_path / "new" / "a.jsonl", rollouts)
    write_rollouts(tmp_path / "b.jsonl", read_rollouts(tmp_path / "new" / "a.jsonl"))
    assert list(read_rollouts(tmp_path / "b.jsonl")) == rollouts
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "new" / "a.jsonl").read_bytes()


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_rollouts(path, [ROLLOUT])
    path.write_text(path.read_text() + '{"prompt_id": "p"}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl line 2 is not a rollout"):
        list(read_rollouts(path))


def test_a_reward_that_is_not_a_number_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_rollouts(tmp_path / "r.jsonl", [replace(ROLLOUT, reward=float("nan"))])
