"""Arrows run flows → tasks → rlhf and never back; heavy libraries stay where they are used."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.closure import closure, dvc_files

ROOT = Path(__file__).parents[1]
PURE = {"bitsandbytes", "jinja2", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers"}
TORCH_ONLY = ("rlhf/advantages.py", "rlhf/kl.py", "rlhf/masks.py", "rlhf/losses/")
HEAVY = ("bitsandbytes", "datasets", "great_expectations", "peft", "torch", "transformers")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Absolute dotted names, with `from a import b` as a.b; relative imports resolved against the file's package."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def third_parties(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)


def stage_modules() -> set[str]:
    """Modules that a shipped dvc.yaml runs, dotted."""
    texts = [path.read_text("utf-8") for path in dvc_files(ROOT)]
    return {name for text in texts for name in re.findall(r"python -m (tasks\.\w+) --params", text)}


@pytest.mark.parametrize("path", modules("rlhf"), ids=relative)
def test_rlhf_is_pure(path: Path) -> None:
    assert third_parties(path) <= PURE | {"rlhf"}


def test_adapters_cost_nothing_where_there_are_none() -> None:
    """Both libraries take seconds to load, and a stage that trains all weights needs neither."""
    program = "import sys, rlhf.models, rlhf.trainer; print(*sorted({'bitsandbytes', 'peft'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


MATHEMATICS = [path for path in modules("rlhf") if relative(path).startswith(TORCH_ONLY)]


@pytest.mark.parametrize("path", MATHEMATICS, ids=relative)
def test_the_mathematics_needs_torch_alone(path: Path) -> None:
    """Also through what it imports."""
    module = relative(path).removesuffix(".py").replace("/", ".")
    assert {name for file in closure(module, ROOT) for name in third_parties(ROOT / file)} <= {"rlhf", "torch"}


@pytest.mark.parametrize("path", modules("tasks"), ids=relative)
def test_tasks_know_no_flow(path: Path) -> None:
    assert not third_parties(path) & {"flows", "prefect"}


@pytest.mark.parametrize("path", modules("tasks"), ids=relative)
def test_great_expectations_stays_in_validation(path: Path) -> None:
    if not relative(path).startswith("tasks/validation/"):
        assert "great_expectations" not in third_parties(path)


@pytest.mark.parametrize("path", modules("flows"), ids=relative)
def test_flows_import_nothing_heavy(path: Path) -> None:
    assert not third_parties(path) & set(HEAVY)


def test_stages_meet_in_files_only() -> None:
    stages = stage_modules()
    assert len(stages) >= 13
    for path in modules("tasks"):
        found = {".".join(name.split(".")[:2]) for name in imported(path)} & stages
        assert not found, f"{relative(path)} imports the stages {found}"


def test_stages_read_their_own_section_only() -> None:
    for path in modules("tasks"):
        if f"tasks.{path.stem}" in stage_modules():
            assert not {name for name in imported(path) if name.startswith("tasks.config.params")}, relative(path)


@pytest.mark.parametrize("module", ["flows.pipeline", "flows.cli"])
def test_importing_a_flow_is_light(module: str) -> None:
    """What the reading above cannot see: a light module that brings a heavy one with it."""
    program = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
