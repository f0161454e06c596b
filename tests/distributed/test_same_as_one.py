"""Two processes train as one that does all micro-batches: losses, gradients and weights.

Once as forks of the test, which cost no imports, and once as torchrun starts them.

Sums over two shares are rounded otherwise than one sum, hence 1e-5 and not bitwise.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import several

ROOT = Path(__file__).parents[2]
UP_TO = {"bfloat16": 2.0**-5}
"""How far anything may be apart, 1e-5 in float32; of gradients above 1 so much of them."""


@pytest.fixture(scope="module", params=["forks", pytest.param("torchrun", marks=pytest.mark.slow)])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All trainers, in one start of two processes, as theirs takes most of the time."""
    folder = tmp_path_factory.mktemp("both")
    for name in several.TRAINERS:
        several.prepared(name, folder / name / "given")
    if request.param == "forks":
        assert several.ended(lambda rank: several.run_all(folder, rank, several.TRAINERS), 2, folder) == [0, 0]
        return folder
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = [str(ROOT / "tests/distributed/several.py"), str(folder), *several.TRAINERS]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*launcher, *program], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a stage wrote as safetensors, by file and name."""
    files = sorted((folder / "out").rglob("*.safetensors"))
    return {f"{file.relative_to(folder)}:{name}": one for file in files for name, one in load_file(file).items()}


def steps(folder: Path) -> dict[str, dict[str, Any]]:
    """What was logged; without which pairs are ranked right where all margins are 0 but for rounding."""
    found: dict[str, dict[str, Any]] = json.loads((folder / "steps.json").read_text())
    ties = {step for step, metrics in found.items() if abs(metrics.get("dpo/margin", 1.0)) < 1e-6}
    return {
        step: {
            name: value
            for name, value in metrics.items()
            if "seconds" not in name and not (name == "dpo/accuracy" and step in ties)
        }
        for step, metrics in found.items()
    }


@pytest.mark.parametrize("name", several.TRAINERS)
def test_losses_gradients_and_weights(name: str, both: Path, tmp_path: Path) -> None:
    up_to = UP_TO.get(name.split()[-1], 1e-5)
    one, (first, second) = tmp_path / "one", (both / name / f"rank-{rank}" for rank in range(2))
    several.run(name, both / name / "given", one)
    expected, found = load_file(one / "gradients.safetensors"), load_file(first / "gradients.safetensors")
    assert list(found) == list(expected) and len(expected) >= 6
    assert sum(gradient.norm() for gradient in expected.values()) > 0.1
    for step, gradient in expected.items():
        near = {"rtol": up_to, "atol": up_to}
        torch.testing.assert_close(found[step], gradient, **near, msg=lambda m, at=step: f"step {at}: {m}")
    logged = steps(one)
    assert steps(first) == steps(second), "what the first process logs is not of all"
    assert steps(first) == {step: pytest.approx(metrics, abs=up_to, rel=1e-4) for step, metrics in logged.items()}
    weights = tensors(one)
    assert tensors(first).keys() == weights.keys() and tensors(second) == {}
    for key, weight in weights.items():
        torch.testing.assert_close(tensors(first)[key], weight, rtol=0, atol=1e-4 if "value" in key else up_to)
    gradients = load_file(second / "gradients.safetensors")
    assert all(torch.equal(found[step], gradients[step]) for step in found), "the two have parted"
