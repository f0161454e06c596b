"""Code dependencies in dvc.yaml: complete, generated, and written without touching anything else."""

from pathlib import Path

import pytest

from tasks import closure

ROOT = Path(__file__).parents[2]
GRAPH = """\
# the graph
stages:
  fit:
    cmd: OMP_NUM_THREADS=${threads} python -m tasks.fit --params fit
      --data data/in
    deps:
    - data/in   # raw
    - tasks/gone.py
    - environment.json

    # between
    params:
    - fit
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "tasks/__init__.py": "",
        "tasks/fit.py": "import torch\nfrom rlhf import losses, errors\nfrom tasks.config.fit import Fit\n",
        "tasks/other.py": "",
        "tasks/config/__init__.py": "from . import base\n",
        "tasks/config/base.py": "",
        "tasks/config/fit.py": "from ..shared import x\n",
        "tasks/shared.py": "def lazy():\n    import rlhf.deep.inner\n",
        "rlhf/__init__.py": "",
        "rlhf/errors.py": "import rlhf.losses\n",
        "rlhf/losses/__init__.py": "from rlhf.losses.one import f\n",
        "rlhf/losses/one.py": "from rlhf import errors\n",
        "rlhf/losses/two.py": "",
        "rlhf/deep/__init__.py": "",
        "rlhf/deep/inner.py": "",
        "dvc.yaml": GRAPH,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_closure_follows_every_kind_of_import(project: Path) -> None:
    assert closure.closure("tasks.fit", project) == [
        "rlhf/__init__.py",
        "rlhf/deep/__init__.py",
        "rlhf/deep/inner.py",  # imported inside a function of a module imported relatively
        "rlhf/errors.py",
        "rlhf/losses/__init__.py",
        "rlhf/losses/one.py",  # reached through the package's __init__; its circle back ends
        "tasks/__init__.py",
        "tasks/config/__init__.py",
        "tasks/config/base.py",
        "tasks/config/fit.py",
        "tasks/fit.py",
        "tasks/shared.py",
    ]


def test_only_dependency_lines_change(project: Path) -> None:
    text, stale = closure.renewed(GRAPH, project)
    assert stale == ["fit"]
    expected = [*closure.closure("tasks.fit", project), "environment.json"]
    head, tail = GRAPH.split("    - tasks/gone.py\n    - environment.json\n")
    assert text == head + "".join(f"    - {dep}\n" for dep in expected) + tail
    assert closure.renewed(text, project) == (text, [])


def test_new_import_makes_it_stale(project: Path) -> None:
    text, _ = closure.renewed(GRAPH, project)
    (project / "tasks/shared.py").write_text("import rlhf.losses.two\n")
    renewed, stale = closure.renewed(text, project)
    assert stale == ["fit"]
    assert "- rlhf/losses/two.py\n" in renewed and "deep" not in renewed


@pytest.mark.parametrize("path", closure.dvc_files(ROOT), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shipped_graphs_are_fresh(path: Path) -> None:
    stale = closure.renewed(path.read_text(encoding="utf-8"), ROOT)[1]
    assert not stale, "run `python -m tasks.closure --write`"
