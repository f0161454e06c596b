"""The command line: helps without loading anything heavy, and says what it would do."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli, guards, workspace
from flows.compare import compare as comparing
from rlhf.errors import PreflowError
from tests.flows.toy import REPO, dvc_repro


def test_help_shows_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom flows.cli import app\n"
        "asked = ['', 'run', 'compare', 'chat', 'export', 'data show', 'data check']\n"
        "shown = [CliRunner().invoke(app, [*words.split(), '--help']).output for words in asked]\n"
        "print('\\n'.join(shown))\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'prefect', 'great_expectations', 'dvc', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in (
        *("run", "stop", "status", "--profile", "preflow run --set rl.kl_coef=0.05", "compare --algorithm rloo"),
        *("preflow chat policy/3", "preflow export", "--merge", "preflow data show mine.csv", "--html"),
    ):
        assert word in done.stdout


def test_options_given_twice_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def plan(_: Path, one: object, __: object) -> None:
        asked.append(one)
        raise PreflowError("enough")

    monkeypatch.setattr(comparing, "plan", plan)
    words = ["compare", "--algorithm", "ppo,rloo", "--algorithm", "grpo", "--lr", "1", "--lr", "2,3"]
    CliRunner().invoke(cli.app, words)
    (one,) = asked
    assert (one.algorithms, one.rates, one.seeds, one.profile) == (("ppo", "rloo", "grpo"), ("1", "2", "3"), (0,), "")
    for option in ("--seeds", "--profile", "--stage", "--name"):
        told = CliRunner().invoke(cli.app, [*words, option, "1", option, "2"]).exception
        assert str(told) == f"{option}: given 2 times (1, 2); give it once"
    told = CliRunner().invoke(cli.app, ["run", "--profile", "r1", "--profile", "polite"]).exception
    assert str(told) == "--profile: given 2 times (r1, polite); give it once"
    assert len(asked) == 1


def test_the_flow_itself_needs_no_torch() -> None:
    program = "import sys, flows.launch, flows.pipeline; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True)


def test_status_tells_what_would_run_and_why(toy: Path) -> None:
    dvc_repro(toy)
    (toy / "params.yaml").write_text((toy / "params.yaml").read_text().replace("5e-2", "1e-2"))
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", "--json"], cwd=toy, text=True, capture_output=True, check=True,
        env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HOME": str(toy)},
    )  # fmt: skip
    stages = json.loads(done.stdout)["stages"]
    assert {name for name, stage in stages.items() if stage["runs"]} == {"rl", "gate"}
    assert stages["rl"]["reasons"] == ["rl modified"]


def test_mistakes_end_with_one_sentence_and_two(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run"], cwd=tmp_path, text=True, capture_output=True, check=False,
        env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "is in no git checkout" in done.stderr


def test_a_full_disk_stops_it_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match=r"GB free on the disk of .* at least 1048576 GB are needed"):
        guards.check_disk(tmp_path, needed=2**50)


def test_what_a_machine_refuses_is_one_sentence_and_a_defect_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["preflow", "status"])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli.environment, "set_defaults", lambda: None)

    def refuse(number: int) -> None:
        def find(_: Path) -> Path:
            raise OSError(number, "told", "/mnt/out")

        monkeypatch.setattr(workspace, "find_root", find)
        cli.main()

    with pytest.raises(SystemExit) as ended:
        refuse(errno.EACCES)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "preflow: /mnt/out: told; mend the permissions, the mount or the full disk\n"
    with pytest.raises(OSError, match="told"):
        refuse(errno.EBADF)
