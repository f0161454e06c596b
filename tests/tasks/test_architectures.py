"""Families of models through sft, reward model, PPO, GRPO and DPO, in full and with adapters."""

import re
from pathlib import Path

import pytest

from tests.rlhf.tiny_models import ARCHITECTURES
from tests.tasks.architectures import BEGIN, END, METHODS, PAGE, STAGES, outcomes


def printed() -> dict[tuple[str, str], list[str]]:
    """What docs/adapters.md says of each architecture and method."""
    rows = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {(model, method): said for model, method, *said in cells}


def test_the_table_has_every_combination() -> None:
    assert len(ARCHITECTURES) >= 6
    assert printed().keys() == {(architecture, method) for architecture in ARCHITECTURES for method in METHODS}


@pytest.mark.parametrize(("architecture", "method"), [("gpt2", "qlora"), ("qwen2", "lora")])
def test_two_steps_of_every_stage(architecture: str, method: str, tmp_path: Path) -> None:
    """Absolute positions in 4 bits, tied embeddings with a padded vocabulary: the others are slow together."""
    found = outcomes(architecture, method, tmp_path)
    assert [found[stage] for stage in STAGES] == printed()[architecture, method]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_printed_table_is_that_of_today(architecture: str, method: str, tmp_path: Path) -> None:
    found = outcomes(architecture, method, tmp_path)
    assert [found[stage] for stage in STAGES] == printed()[architecture, method], (
        "renew it: python -m tests.tasks.architectures --write"
    )


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    tests = Path(__file__).parents[1]
    assert len(named) > 5
    assert [name for file, name in named if f"\ndef {name}(" not in (tests / file).read_text(encoding="utf-8")] == []
