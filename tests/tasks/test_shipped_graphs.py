"""Every shipped graph, that of each profile too: its stages understand their commands, and declare what they read."""

import fnmatch
import importlib
import shlex
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from flows import profiles
from tasks import arguments as wanted
from tasks import closure
from tasks.config import read_yaml
from tasks.config.params import with_sections
from tasks.graph import Graph, Stage, graph_of, load_graph
from tasks.lineage import policies_of

ROOT = Path(__file__).parents[2]
OUTSIDE = (
    *("data/inbox", "data/inbox/checkpoint", "data/inbox/lexicon/vader_lexicon.txt"),
    *("data/expectations", "data/champion"),
)
"""What runs bring in, and what the repository holds."""
SHARED_HEAD = ("collect", "prepare", "validate", "base", "sft")
RECIPES = ("instructgpt", "llama2-rounds", "llama3-rounds", "tulu3", "r1", "dpo-only", "rlvr-only")
PROFILES = ["", *sorted(path.parent.name for path in closure.dvc_files(ROOT)[1:])]


def tree(profile: str, folder: Path) -> Path:
    """A folder with the params.yaml and dvc.yaml of a run with this profile."""
    resolved = profiles.resolve(ROOT, profile)
    (folder / "params.yaml").write_text(resolved.text)
    shutil.copyfile(resolved.dvc_yaml or ROOT / "dvc.yaml", folder / "dvc.yaml")
    return folder


@pytest.fixture(scope="module", params=PROFILES, ids=lambda name: name or "default")
def profile(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def graph(profile: str, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return load_graph(tree(profile, tmp_path_factory.mktemp(profile or "default")))


def parsed(stage: Stage) -> tuple[Any, Any]:
    """The function of a stage and its arguments, as `python -m tasks.<stage>` would see them."""
    words = shlex.split(stage.cmd)
    assert words[0].startswith("OMP_NUM_THREADS=") and words[1:3] == ["python", "-m"], stage.cmd
    module = words[3].removeprefix("tasks.")
    function = getattr(importlib.import_module(words[3]), module)
    return function, wanted.parser(function).parse_args(words[4:])


def paths(function: Any, arguments: Any) -> set[str]:
    """Every path that a stage is given, but for its output."""
    given = {getattr(arguments, name) for name in wanted.paths(function)} - {None}
    given |= {path for name in wanted.named_paths(function) for _, path in getattr(arguments, name)}
    return {path.as_posix() for path in given}


def inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def test_what_a_stage_is_given_is_what_it_declares(graph: Graph) -> None:
    for stage in graph.stages.values():
        function, arguments = parsed(stage)
        given, declared = paths(function, arguments), set(stage.data_deps)
        for path in given:
            assert any(inside(dep, path) for dep in declared), f"{stage.name} reads {path} undeclared"
        for dep in declared:
            assert any(inside(dep, path) for path in given), f"{stage.name} declares {dep}, and is not given it"
        for out in stage.outs:
            assert inside(out, arguments.out.as_posix()), f"{stage.name} writes {out} elsewhere"


def test_what_is_read_is_made_by_a_stage_or_allowed_from_outside(graph: Graph) -> None:
    for stage in graph.stages.values():
        for dep in stage.data_deps:
            assert dep in OUTSIDE or graph.producer(dep), f"{stage.name} reads {dep}, which nobody makes"


def test_a_stage_declares_the_sections_that_it_reads(graph: Graph, profile: str) -> None:
    """Another section, or one too many, would be a key that misses changes, or changes for nothing."""
    resolved = profiles.resolve(ROOT, profile)
    typed = with_sections(resolved.further).parse(resolved.values, "").model_dump(mode="json", by_alias=True)
    for stage in graph.stages.values():
        function, arguments = parsed(stage)
        hints = get_type_hints(function)
        section = arguments.params
        expected = {section, *wanted.sections(hints), *(["seed"] if "seed" in hints else [])}
        if "algorithm" in hints:
            expected.add(f"algorithms.{typed[section]['algorithm']}")
        assert set(stage.params) == expected, stage.name
        assert type(hints["config"].parse(typed[section], section)) is hints["config"]


def test_every_path_belongs_to_one_stage_and_git_ignores_it(graph: Graph) -> None:
    rules = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/data/")]
    outs = [out for stage in graph.stages.values() for out in stage.outs]
    assert len(outs) == len(set(outs))
    for out in outs:
        folder = "/".join(out.split("/")[:2])
        assert any(fnmatch.fnmatch(folder, rule) for rule in rules), out


def test_a_graph_ends_where_flows_look_for_its_verdict(graph: Graph) -> None:
    """`flows` reads scores, completions and the verdict where the default graph has them."""
    assert {"data/12_evaluation/scores.json", "data/12_evaluation/completions"} <= set(graph.stages["evaluate"].outs)
    assert graph.stages["gate"].outs == ("data/13_gate/gate.json",)
    policies = policies_of(graph)
    assert {"base", "sft"} < set(policies)
    assert all(graph.producer(path) for path in policies.values())


def test_no_stage_is_made_for_nothing(graph: Graph) -> None:
    """Everything but the verdict and reports for people is read by somebody."""
    used = {other for names in graph.upstream.values() for other in names}
    assert {"gate"} <= set(graph.stages) - used <= {"gate", "trajectory", "folds"}


def test_data_base_and_sft_are_those_of_the_default_graph(graph: Graph) -> None:
    """So a profile finds them in the cache of a plain run."""
    usual = graph_of(read_yaml(ROOT / "dvc.yaml"), profiles.resolve(ROOT).values)
    for name in SHARED_HEAD:
        if name in graph.stages:  # one that starts from the base has no sft
            assert graph.stages[name] == usual.stages[name]


def test_settings_name_policies_that_are_evaluated(graph: Graph, profile: str) -> None:
    known = set(policies_of(graph))
    for pair in profiles.resolve(ROOT, profile).values["evaluate"]["differences"]:
        assert set(pair.split(" - ")) <= known, pair


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_whose_it_is(name: str) -> None:
    head = (ROOT / "profiles" / name / "params.yaml").read_text(encoding="utf-8")
    for word in ("# Source: ", "# Scaled down: ", "# Differs: "):
        assert word in head, f"{name}: {word}"
    assert f"](../profiles/{name}/params.yaml)" in (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")


def test_dvc_sees_the_same_graph(graph: Graph, profile: str, tmp_path: Path) -> None:
    from dvc.repo import Repo

    Repo.init(str(tmp_path), no_scm=True).close()
    shutil.copyfile(ROOT / ".dvcignore", tmp_path / ".dvcignore")
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")  # whose graphs are none of this one
    tree(profile, tmp_path)
    with Repo(str(tmp_path)) as repo:
        dag = repo.index.graph
        theirs = {stage.name: sorted(other.name for other in dag.successors(stage)) for stage in dag.nodes}
        commands = {stage.name: stage.cmd for stage in dag.nodes}
    assert theirs == {name: sorted(others) for name, others in graph.upstream.items()}
    assert commands == {name: stage.cmd for name, stage in graph.stages.items()}
