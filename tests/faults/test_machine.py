"""What a machine does to a stage: killed when all is trained, nowhere to write, no memory, other surroundings."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from rlhf import supervised, trainer
from rlhf.records import write_rows
from tests.faults import points
from tests.faults.child import ended
from tests.faults.small_stage import GIVEN, REPO, STEPS, events, make_root, typed_sft
from tests.tasks import test_sft, tiny


def counting(root: Path) -> Callable[[], None]:
    """In a fork: `root/updates` has a letter for each update."""

    def prepare() -> None:
        update = trainer.update

        def counted(*arguments: Any) -> None:
            update(*arguments)
            with (root / "updates").open("a") as file:
                file.write("x")

        (root / "updates").write_text("")
        trainer.update = counted  # type: ignore[attr-defined]

    return prepare


@pytest.mark.parametrize("point", ["policy.write", "output.rename"])
@pytest.mark.faults(
    4, injected="kill -9 after the last step of SFT: before its policy is written, while it is moved into place",
    happens="only the end is done again, to the same bytes; no step is trained twice",
)  # fmt: skip
def test_killed_when_all_is_trained(point: str, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    assert ended(typed_sft(root, out="unbroken")) == 0
    assert ended(typed_sft(root), fault=f"{point}:1:kill") == -signal.SIGKILL
    assert ended(typed_sft(root, counting(root))) == 0
    assert (root / "updates").read_text() == ""
    assert tiny.contents(root / "out") == tiny.contents(root / "unbroken")
    assert not list(root.glob(".tmp-*"))


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Make a folder one that nobody can write to; root can do so nearly everywhere, but not on what is mounted so."""
    mounted: list[Path] = []

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        if os.getuid():
            folder.chmod(0o555)
        elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "preflow", folder], check=False).returncode:
            pytest.skip("no right to mount a file system")
        else:
            mounted.append(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("where", ["data", ".preflow"])
@pytest.mark.faults(
    12, injected="a folder of outputs, or of checkpoints, that is read-only", happens="refused before the first step"
)
def test_nowhere_to_write(where: str, tmp_path: Path, read_only: Callable[[Path], None]) -> None:
    root = make_root(tmp_path)
    read_only(root / where)
    assert ended(typed_sft(root, counting(root), out="data/sft"), root / "errors") == 1
    assert (
        f"sft: {root / where if where == '.preflow' else 'data'} cannot be written to" in (root / "errors").read_text()
    )
    assert (root / "updates").read_text() == ""


@pytest.mark.parametrize("wants", [lambda: torch.empty(10**9), lambda: bytearray(4 * 10**9)])
@pytest.mark.faults(
    55, injected="RLIMIT_AS: a tensor, or Python, wants 4 GB in step 7 of SFT and may have 1",
    happens="“out of memory” with the settings to lower; with more memory it goes on from the last save",
)  # fmt: skip
def test_out_of_memory_is_named(wants: Callable[[], object], tmp_path: Path) -> None:
    root = make_root(tmp_path, checkpoint_every=3)

    def limit() -> None:
        counting(root)()
        most = psutil.Process().memory_info().vms + 10**9
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        original, calls = supervised.completion_nll, [-1]

        def hungry(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == 7:
                wants()
            return original(*arguments)

        supervised.completion_nll = hungry  # type: ignore[attr-defined]

    assert ended(typed_sft(root, limit), root / "errors") == 1
    said = events(root)[-1]["reason"]
    assert said.startswith("out of memory (") and "lower sft.max_batch_tokens or sft.batch_size" in said
    assert f"sft: {said}" in (root / "errors").read_text()
    assert ended(typed_sft(root, counting(root))) == 0
    assert len((root / "updates").read_text()) == STEPS - 6


STAGES = """
import sys
from tasks import stage
from tasks.base import base
from tasks.sft import sft
for function, words in ((base, sys.argv[1].split()), (sft, sys.argv[2].split())):
    sys.argv = [function.__name__, *words]
    try:
        stage.main(function)
    except SystemExit as ended:
        if ended.code:
            raise
"""
PLAIN = {"PYTHONHASHSEED": "0"}
ODD = {
    "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONHASHSEED": "4321",
}  # fmt: skip


def outputs(root: Path, surroundings: dict[str, str], without: str = "") -> dict[str, bytes]:
    """What `base` and `sft` write in a project there, in a process with this environment."""
    make_root(root)
    params = json.loads((root / "params.yaml").read_text())
    small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_tokens": 64}
    params["base"] = {"source": "scratch", "epochs": 2} | small
    (root / "params.yaml").write_text(json.dumps(params))
    corpus = [{"text": f"{word} naïve 日本 {other}"} for word in tiny.WORDS for other in tiny.WORDS]
    write_rows(root / "corpus/train.jsonl", [*corpus, *test_sft.rows(tiny.WORDS)])
    write_rows(root / "corpus/val.jsonl", corpus[:5])
    environ = {name: value for name, value in os.environ.items() if name != without}
    environ["PYTHONPATH"] = os.pathsep.join([environ.get("PYTHONPATH", ""), str(REPO)])
    made = ["--params", "base", "--corpus", "corpus", "--checkpoint", "none", "--out", "made"]
    learnt = [*GIVEN[:-1], "made/policy", "--out", "out"]
    command = [sys.executable, "-c", STAGES, " ".join(made), " ".join(learnt)]
    done = subprocess.run(command, cwd=root, env=environ | surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {f"{out}/{name}": data for out in ("made", "out") for name, data in tiny.contents(root / out).items()}


@pytest.mark.slow
@pytest.mark.faults(
    54, happens="the same bytes",
    injected="base and SFT with another zone, LC_ALL=C, another hash seed, no HOME, a clock that jumps by 25 years, "
    "in a folder with spaces and Unicode",
)  # fmt: skip
def test_the_surroundings_do_not_matter(tmp_path: Path) -> None:
    plain = outputs(tmp_path / "plain", PLAIN)
    clock = {points.VARIABLE: "clock:*:jump", "PYTHONPATH": os.pathsep.join([str(points.ON_PATH), str(REPO)])}
    odd = outputs(tmp_path / "ein Ordner – 日本 'x'", ODD | clock, without="HOME")
    assert {"made/policy/model.safetensors", "out/policy/model.safetensors", "out/metrics.json"} <= set(plain)
    assert odd == plain
