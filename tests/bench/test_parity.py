"""The page on parity with TRL says what was compared, and the comparison would notice what it promises to notice."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.parity.cases import CASES, Case
from bench.parity.compare import Found, bound, complaints, distance

ROOT = Path(__file__).parents[2]
PROMISED = {
    "SFT", "Reward", "DPO", "IPO", "KTO", "ORPO", "SimPO", "GRPO", "Dr. GRPO", "DAPO", "GSPO", "CISPO", "RLOO", "PPO",
}  # fmt: skip


def rows() -> list[list[str]]:
    page = (ROOT / "docs/parity.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (.+) \|$", page, re.MULTILINE)
    return [line.split(" | ") for line in lines if re.search(r"\| \d+\.\d+\.\d+ \|", line)]


def test_the_page_has_a_line_of_every_case() -> None:
    compared = [(case.method, f"with {case.changed}" if case.changed else "as shipped") for case in CASES]
    assert [(row[0], row[2]) for row in rows()] == compared


def test_every_promised_method_agrees_in_some_line() -> None:
    assert {row[0] for row in rows() if row[-1] == "agrees"} >= PROMISED


def test_every_difference_has_its_reason_on_the_page() -> None:
    page = (ROOT / "docs/parity.md").read_text(encoding="utf-8")
    reasons = page.split("## Where we differ, and why")[1]
    for case in CASES:
        if case.differs:
            assert re.search(rf"\*\*[^*]*\b{re.escape(case.method)}\b", reasons), case.method


def test_the_page_names_the_versions_of_the_script() -> None:
    script = (ROOT / "bench/parity/setup.sh").read_text(encoding="utf-8")
    newest, with_ppo = (re.search(rf"^{name}=(\S+)$", script, re.MULTILINE) for name in ("NEWEST", "WITH_PPO"))
    assert newest and with_ppo
    assert {row[1] for row in rows() if row[0] != "PPO"} == {newest[1]}
    assert {row[1] for row in rows() if row[0] == "PPO"} == {with_ppo[1]}


def test_results_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def found(case: Case, gap: float) -> Found:
    return Found(case, "1.0.0", loss=gap, gradient=gap, exact=gap)


def test_an_unstated_difference_is_complained_about() -> None:
    assert complaints([found(Case("M", "b", {}), 1e-6)]) == []
    assert complaints([found(Case("M", "b", {}), 1e-4)]) == ["m: differs, and no reason is stated"]


def test_a_reason_has_to_explain() -> None:
    stated, without = Case("M", "b", {}, differs="why"), Case("M", "b", {}, changed="that")
    assert complaints([found(stated, 1e-2), found(without, 1e-7)]) == []
    assert complaints([found(stated, 1e-7), found(without, 1e-7)]) == [
        "m: agrees, though a reason for a difference is stated"
    ]
    assert complaints([found(stated, 1e-2)]) == ["M: differs, and no case with the reason taken out agrees"]


def test_distance_is_of_the_worst_entry_of_the_worst_parameter(tmp_path: Path) -> None:
    def write(name: str, loss: float, **gradients: list[float]) -> Path:
        tensors = {f"grad.{key}": torch.tensor(value) for key, value in gradients.items()}
        save_file({"loss": torch.tensor(loss), **tensors}, tmp_path / name)
        return tmp_path / name

    theirs = write("theirs", 4.0, a=[1.0, -8.0], b=[2.0])
    assert distance(write("ours", 3.0, a=[1.0, -8.0], b=[6.0], only_ours=[9.0]), theirs) == (0.25, 0.5)
    with pytest.raises(SystemExit, match=r"no gradient on our side for \['grad.b'\]"):
        distance(write("less", 4.0, a=[1.0, -8.0]), theirs)


def test_rounding_is_shown_as_its_bound() -> None:
    assert [bound(value) for value in (3e-16, 4e-8, 9e-6, 2e-5, 0.156)] == [
        "≤ 1e-12", "≤ 1e-06", "≤ 1e-05", "2e-05", "0.16",
    ]  # fmt: skip


@pytest.mark.slow
def test_both_sides_agree_or_say_why() -> None:
    if not (ROOT / ".venv-trl-ppo").exists():
        pytest.skip("the environments with TRL are not there: `make parity` makes them (2 GB)")
    page = ROOT / "docs/parity.md"
    before = page.read_text(encoding="utf-8")
    result = subprocess.run(["bench/parity/run.sh"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert page.read_text(encoding="utf-8") == before
