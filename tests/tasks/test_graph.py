"""The reader of dvc.yaml: edges, order, placeholders, keys."""

from pathlib import Path

import pytest

from tasks.graph import GraphError, digest, load_graph, stage_key

DIAMOND = """
stages:
  a:
    cmd: make a --threads ${threads}
    outs: [data/a/x, data/a/y]
  b:
    cmd: make b
    deps: [data/a/x, code.py]
    params: [rl, "algorithms.${rl.algorithm}"]
    outs: [data/b]
    metrics: [data/b.json]
  c:
    cmd: make c
    deps: [data/a]
    outs: [data/c]
  d:
    cmd: make d
    deps: [data/b/inner/file, data/c]
    outs:
    - data/d:
        push: false
"""
PARAMS = "threads: 3\nrl: {algorithm: rloo, kl_coef: 5e-2}\nalgorithms: {rloo: {k: 2}, ppo: {k: 1}}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(DIAMOND)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x").write_text("1")
    return tmp_path


def test_edges_follow_paths_above_and_below_an_output(root: Path) -> None:
    graph = load_graph(root)
    assert graph.upstream == {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
    assert graph.descendants({"b"}) == {"b", "d"}
    assert (graph.ancestors({"b"}), graph.ancestors({"d"})) == ({"a", "b"}, {"a", "b", "c", "d"})
    assert graph.producer("data/b/inner") == "b"
    assert graph.producer("data/inbox") is None


def test_placeholders_come_from_params(root: Path) -> None:
    stages = load_graph(root).stages
    assert stages["a"].cmd == "make a --threads 3"
    assert stages["b"].params == ("rl", "algorithms.rloo")
    assert stages["b"].outs == ("data/b", "data/b.json")
    assert stages["d"].outs == ("data/d",)


def test_a_stage_above_its_source_is_refused(root: Path) -> None:
    text = (root / "dvc.yaml").read_text()
    moved = "stages:\n  early:\n    cmd: x\n    deps: [data/d]\n    outs: [data/e]\n" + text.replace("\nstages:\n", "")
    (root / "dvc.yaml").write_text(moved)
    with pytest.raises(GraphError, match="put `d` above it"):
        load_graph(root)


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("code.py", "x = 1", "x = 2", True),
        ("data/a/x", "1", "2", True),
        ("params.yaml", "5e-2", "6e-2", True),
        ("params.yaml", "ppo: {k: 1}", "ppo: {k: 9}", False),
        ("params.yaml", "threads: 3", "threads: 4", False),
    ],
)
def test_key_changes_with_what_the_stage_reads_and_nothing_else(
    root: Path, file: str, old: str, new: str, changes: bool
) -> None:
    before = stage_key(load_graph(root).stages["b"], root)
    path = root / file
    path.write_text(path.read_text().replace(old, new))
    assert (stage_key(load_graph(root).stages["b"], root) != before) is changes


def test_folder_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "one").write_text("ab")
    first = digest(tmp_path / "f")
    (tmp_path / "f" / "one").rename(tmp_path / "f" / "two")
    second = digest(tmp_path / "f")
    (tmp_path / "f" / "two").write_text("ac")
    assert len({first, second, digest(tmp_path / "f"), digest(tmp_path / "none")}) == 4
