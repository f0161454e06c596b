"""Secrets in rows, params, environment and addresses of remotes: nothing that a run writes has them."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.kills.checkout import SHORT
from flows import dvc, remote
from rlhf.errors import DependencyDown
from rlhf.records import read_rows
from tests.flows.toy import PROGRAM, REPO, git, make_toy
from tests.ports import free_ports
from tests.test_end_to_end import copied, typed

WORD = "pa55" + "w0rd" * 4  # put together here, so that no scanner takes this file for a leak
TOKEN, KEY = "hf_" + "aB3x" * 6, "sk-" + "proj-Zz9y" * 4
ADDRESS = f"https://ann:{WORD}@127.0.0.1:9"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    root = copied(tmp_path / "project", SHORT)
    yield root
    preflow(root, "stop")


def preflow(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of a user whose home is beside the project."""
    home = root.parent / "home"
    home.mkdir(exist_ok=True)
    own = {"HOME": str(home), "OMP_NUM_THREADS": "1", "DVC_SITE_CACHE_DIR": str(root.parent / "site")}
    return typed(root, *arguments, **own, **variables)


def holders(root: Path, secret: str) -> set[str]:
    """Every file beside and below a project that has a secret, objects of git too."""
    place, found = root.parent, set[str]()
    for path in place.rglob("*"):
        if path.is_file() and secret.encode() in path.read_bytes():
            found.add(path.relative_to(root if path.is_relative_to(root) else place).as_posix())
    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=root, check=True, capture_output=True
    ).stdout
    return found | ({"an object of git"} if secret.encode() in objects else set())


@pytest.mark.slow
@pytest.mark.faults(
    48,
    injected="tokens in the environment, passwords in the addresses of git's and DVC's remotes and of MLflow",
    happens="a pipeline of all stages ends; no file that it wrote, object of git, database or line of its has one",
)
def test_what_the_environment_and_remotes_hold_is_written_nowhere(project: Path) -> None:
    for command in (
        ["git", "remote", "add", "origin", f"{ADDRESS}/project.git"],
        [sys.executable, "-m", "dvc", "remote", "add", "--local", "-d", "store", f"{ADDRESS}/store"],
    ):
        subprocess.run(command, cwd=project, check=True, capture_output=True)
    (port,) = free_ports(1)
    variables = {
        "HF_TOKEN": TOKEN,
        "OPENAI_API_KEY": KEY,
        "DATABASE_URL": f"postgresql://ann:{WORD}@127.0.0.1/preflow",
    }
    away = {"MLFLOW_TRACKING_URI": f"http://ann:{WORD}@127.0.0.1:{port}"}  # where nobody answers
    for arguments in (["run", "--json"], ["status"], ["doctor"], ["run"]):
        done = preflow(project, *arguments, **variables, **({} if "--json" in arguments else away))
        assert not [secret for secret in (TOKEN, KEY, WORD) if secret in done.stdout + done.stderr], arguments
        assert done.returncode == 0 or "doctor" in arguments, done.stderr[-3000:]
    assert (project / "mlruns/mlflow.db").stat().st_size > 0
    assert holders(project, TOKEN) | holders(project, KEY) == set()
    assert holders(project, WORD) == {".git/config", ".dvc/config.local"}  # where its user has put it


class Refuses(BaseHTTPRequestHandler):
    """A DVC remote that takes and gives nothing."""

    def refuse(self) -> None:
        self.send_error(403)

    do_GET = do_HEAD = do_POST = do_PUT = refuse

    def log_message(self, *_: object) -> None:
        """Not a word."""


@pytest.fixture
def store() -> Iterator[str]:
    """The address of a remote that refuses, with a password in it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://ann:{WORD}@127.0.0.1:{server.server_address[1]}/store"
    server.shutdown()
    server.server_close()


TALKS = """
import os
print(os.environ["STORE"], os.environ["STORE_PASSWORD"], flush=True)
if name == "rl" and not Path("mended").exists():
    sys.exit(f"cannot reach {os.environ['STORE']} with {os.environ['STORE_PASSWORD']}")
"""


@pytest.mark.faults(
    48,
    injected="a DVC remote with a password in its address that refuses push and fetch, and stages that print it",
    happens="no log, message, database or file has it; both are said to have failed",
)
def test_a_remote_that_refuses_is_named_without_its_password(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_toy(tmp_path / "project")
    (root / "stage.py").write_text((root / "stage.py").read_text().replace("params = YAML", f"{TALKS}params = YAML"))
    git(root, "commit", "-qam", "talks")
    add = ["remote", "add", "--local", "-d", "store", store]
    subprocess.run([sys.executable, "-m", "dvc", *add], cwd=root, check=True, capture_output=True)
    (tmp_path / "home").mkdir()
    for name, value in {"STORE": store, "STORE_PASSWORD": WORD, "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    said = []

    def typed(*words: str) -> int:
        own = {"PYTHONPATH": str(REPO), "PREFECT_HOME": str(root / ".preflow/prefect")}
        command = [sys.executable, "-c", PROGRAM, *words]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PREFLOW"))}
        done = subprocess.run(command, cwd=root, env=environ | own, text=True, capture_output=True, check=False)
        said.append(done.stdout + done.stderr)
        return done.returncode

    try:
        assert typed("run") == 1
        assert "rl: cannot reach http[password in a URL]127.0.0.1" in said[-1]
        (root / "mended").touch()
        assert typed("run") == 0
        with pytest.raises(DependencyDown, match="the DVC remote store did not take everything") as refused:
            remote.push(root)
        said.append(str(refused.value))
        (run,) = git(root, "for-each-ref", "--sort=-refname", "--count=1", "--format=%(refname:lstrip=3)").splitlines()
        shutil.rmtree(root / ".dvc/cache")
        shutil.rmtree(root / "data")
        assert typed("reproduce", run.rpartition("/")[2]) != 0
    finally:
        typed("stop")
    assert not [text for text in said if WORD in text]
    logs = [path.read_text() for path in root.glob(".preflow/journal/*/*.log")]
    assert logs and all("[$STORE" in text for text in logs)
    assert holders(root, WORD) == {".dvc/config.local"}  # where its user has put it


def test_what_dvc_says_of_an_address_has_no_password(tmp_path: Path) -> None:
    """It repeats the address of a remote that it cannot make sense of."""
    (tmp_path / "rows").write_text("rows")
    for words in (
        ["init", "--no-scm"],
        ["add", "rows"],
        ["remote", "add", "-d", "store", f"http://ann:{WORD}@host:x/"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *words, "--quiet"], cwd=tmp_path, check=True)
    shutil.rmtree(tmp_path / ".dvc/cache")
    said = dvc.call(tmp_path, "fetch").stderr
    assert "failed to connect to http (http[password in a URL]host:x" in said and WORD not in said


@pytest.mark.slow
@pytest.mark.faults(
    48,
    injected="a key in a row of preferences",
    happens="validation stops the run by rule, file, line and hash; only inbox, 01_raw and its cache object have it",
)
def test_what_a_row_holds_goes_no_further_than_the_raw_data(project: Path) -> None:
    rows = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no", "annotator": "ann"} for n in range(30)]
    rows[16]["chosen"] = f"my key is {KEY}"
    shard = project / "data/inbox/preferences/shard.jsonl"
    shard.parent.mkdir(parents=True, exist_ok=True)
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = preflow(project, "run")
    assert done.returncode == 3, done.stderr[-3000:]
    assert "shard.jsonl:17" in done.stderr and "secret" in done.stderr and "OpenAI-style key" in done.stderr
    assert KEY not in done.stdout + done.stderr
    where = {path for path in holders(project, KEY) if not path.startswith(".dvc/cache/")}
    assert where == {"data/inbox/preferences/shard.jsonl", "data/01_raw/preferences/shard.jsonl"}
    cached = [path for path in holders(project, KEY) if path.startswith(".dvc/cache/")]
    assert {(project / path).read_bytes() for path in cached} == {shard.read_bytes()}
    (report,) = project.glob("reports/*/validation/verdict.json")
    (stopped,) = json.loads(report.read_text())["kinds"]["preferences"]["stopped"]
    assert (stopped["rule"], stopped["line"]) == ("secret", 17)
    (row,) = [row for row in read_rows(project / "data/02_prepared/preferences") if "secret" in row]
    assert stopped["id"] == row["id"] and "[OpenAI-style key]" in row["chosen"]


@pytest.mark.faults(
    48, injected="a token in params.yaml, in a profile, in --set", happens="refused by the key's name before DVC runs"
)
@pytest.mark.parametrize("where", ["params.yaml", "a profile", "--set"])
@pytest.mark.slow
def test_what_params_hold_is_refused(where: str, project: Path) -> None:
    if where == "params.yaml":
        path = project / "params.yaml"
        path.write_text(path.read_text().replace("name: policy", f"name: {TOKEN}"))
        assert TOKEN in path.read_text()
        done = preflow(project, "run")
    elif where == "a profile":
        (project / "profiles/mine.yaml").write_text(f"registry:\n  name: {TOKEN}\n")
        done = preflow(project, "run", "--profile", "mine")
    else:
        done = preflow(project, "run", "--set", f"registry.name={TOKEN}")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "registry.name" in done.stderr and "environment variable" in done.stderr and TOKEN not in done.stderr
    assert holders(project, TOKEN) <= {"params.yaml", "profiles/mine.yaml"}
    assert not (project / "dvc.lock").exists()
