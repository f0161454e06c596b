"""`dvc://` sources through MLflow's own functions: what a run says it read can be had again, byte for byte."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DependencyDown, PreflowError
from tasks.config import read_yaml
from tasks.tracking.store import connect, uri_of

ROWS = {"train.jsonl": '{"id": "1"}\n', "more/val.jsonl": '{"id": "2"}\n'}


def dvc(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project with a folder and a file, both in its remote."""
    root = tmp_path_factory.mktemp("project")
    for name, text in ROWS.items():
        (root / "data/rows" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data/rows" / name).write_text(text)
    (root / "data/gate.json").write_text("{}")
    dvc(root, "init", "--no-scm", "-q")
    dvc(root, "remote", "add", "-q", "-d", "store", "remote")
    dvc(root, "add", "-q", "data/rows", "data/gate.json")
    dvc(root, "push", "-q")
    return root


@pytest.fixture
def root(pushed: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of it that has nothing but the remote, with an MLflow store; we are in it."""
    shutil.copytree(pushed, store_root, dirs_exist_ok=True)
    shutil.rmtree(store_root / ".dvc/cache")
    shutil.rmtree(store_root / ".dvc/tmp", ignore_errors=True)
    shutil.rmtree(store_root / "data/rows")
    monkeypatch.chdir(store_root)
    return store_root


def md5(root: Path, path: str) -> str:
    return str(read_yaml(root / f"{path}.dvc")["outs"][0]["md5"])


def source_in_mlflow(root: Path, path: str, digest: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Log a data set, read the run again, and ask MLflow where its data is."""
    import mlflow
    from mlflow.data import get_source, meta_dataset
    from mlflow.data.dataset_source_registry import resolve_dataset_source

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(root))
    client = connect(root).client
    run = client.create_run("0").info.run_id
    source = resolve_dataset_source(f"dvc://{path}?md5={digest}")
    dataset = meta_dataset.MetaDataset(source, name=path, digest=digest)
    client.log_inputs(run, [mlflow.entities.DatasetInput(dataset._to_mlflow_entity())])
    return get_source(client.get_run(run).inputs.dataset_inputs[0])


def test_mlflow_loads_what_only_the_remote_has(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_in_mlflow(root, "data/rows", md5(root, "data/rows"), monkeypatch)
    monkeypatch.chdir(root / "data")  # anywhere in the project
    folder = Path(source.load())
    assert folder.name == "rows"
    assert {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.jsonl")} == ROWS
    assert not any(path.is_symlink() for path in folder.rglob("*"))  # a copy: an edit harms no cache
    shutil.rmtree(root / "remote")  # now the cache has it
    other = Path(source.load(dst_path=str(tmp_path / "other")))
    assert (other / "more/val.jsonl").read_text() == ROWS["more/val.jsonl"]


def test_the_bytes_are_those_of_the_digest_not_of_the_working_tree(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "data/gate.json").write_text('{"newer": true}')
    source = source_in_mlflow(root, "data/gate.json", md5(root, "data/gate.json"), monkeypatch)
    assert Path(source.load(str(tmp_path / "new"))).read_text() == "{}"


def test_what_cannot_be_had_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = source_in_mlflow(root, "data/rows", f"{'0' * 32}.dir", monkeypatch)
    with pytest.raises((PreflowError, DependencyDown), match=r"data/rows \(md5 0{32}\.dir\)"):
        lost.load()
    (root / ".dvc/config").write_text("[core]\n    no_scm = True\n")
    with pytest.raises(PreflowError, match="no DVC remote is set"):
        lost.load()
    monkeypatch.chdir("/")
    with pytest.raises(PreflowError, match="is in no DVC project"):
        lost.load()
