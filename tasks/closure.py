"""The code that a stage's result depends on, written into dvc.yaml as dependencies.

For every stage the modules of this project that its module imports, directly or not, with the `__init__` files on the
way; imports inside functions count. `python -m tasks.closure --write` renews them in dvc.yaml and profiles/*/dvc.yaml,
`--check` says whether they are stale.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PACKAGES = ("tasks", "rlhf")
_MODULE = re.compile(r"python -m (\S+)")


def closure(module: str, root: Path) -> list[str]:
    """Files of `module` and of all project modules it reaches through imports, relative to `root`, sorted."""
    return closure_of([module], root)


def closure_of(modules: Iterable[str], root: Path) -> list[str]:
    """`closure` of several together; each file is read once."""
    found: set[Path] = set()
    waiting = [path for module in modules for path in _files(module, root)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            for name in sorted(imports(path, root)):
                waiting.extend(_files(name, root))
    return sorted(path.relative_to(root).as_posix() for path in found)


def imports(path: Path, root: Path) -> set[str]:
    """Dotted names that a file imports; of `from a import b` both `a` and `a.b`, as `b` may be a module."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def dvc_files(root: Path) -> list[Path]:
    """Every shipped graph: the main one and those of profiles with an order of their own."""
    return [root / "dvc.yaml", *sorted(root.glob("profiles/*/dvc.yaml"))]


def renewed(text: str, root: Path) -> tuple[str, list[str]]:
    """The text of a dvc.yaml with up-to-date dependencies, and the names of the stages whose own were stale.

    Lines are taken out and put in, and nothing else is touched: wrapped commands and comments stay as written.
    Each dependency must be a line of its own.
    """
    lines = text.splitlines()
    stale = []
    stages = YAML().load(text)["stages"]
    for name, stage in reversed(list(stages.items())):  # from the bottom up, so that line numbers above stay right
        body = stage.get("do", stage)
        match = _MODULE.search(body["cmd"])
        if not match:
            continue
        deps = body["deps"]
        kept = [index for index, dep in enumerate(deps) if not _generated(dep)]
        wanted = [*closure(match[1], root), "environment.json"]
        if [*(deps[index] for index in kept), *wanted] == list(deps):
            continue
        stale.append(name)
        first, column = deps.lc.line, deps.lc.col
        last = deps.lc.item(kept[-1])[0] + 1 if kept else first
        generated = {deps.lc.item(index)[0] for index in range(len(deps)) if index not in kept}
        end = max([last, *(line + 1 for line in generated)])
        old = [line for number, line in enumerate(lines[first:end], first) if number not in generated]
        lines[first:end] = [*old, *(f"{' ' * column}- {dep}" for dep in wanted)]
    return "\n".join(lines) + "\n", stale[::-1]


def main() -> None:
    """Renew or check the code dependencies in every shipped dvc.yaml."""
    parser = argparse.ArgumentParser(prog="python -m tasks.closure", description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    write, root = parser.parse_args().write, Path.cwd()
    for path in dvc_files(root):
        text, stale = renewed(path.read_text(encoding="utf-8"), root)
        if stale and write:
            path.write_text(text, encoding="utf-8")
        elif stale:
            sys.exit(f"{path}: stale code dependencies of {', '.join(stale)}; run `python -m tasks.closure --write`")


def _files(module: str, root: Path) -> Iterator[Path]:
    """The file of a project module, and the `__init__` files that importing it runs; nothing for third parties."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return
    for depth in range(1, len(parts) + 1):
        folder = root.joinpath(*parts[:depth])
        for path in (folder / "__init__.py", folder.with_suffix(".py")):
            if path.is_file():
                yield path


def _generated(dep: Any) -> bool:
    return isinstance(dep, str) and (
        dep == "environment.json" or (dep.endswith(".py") and dep.split("/")[0] in PACKAGES)
    )


if __name__ == "__main__":
    main()
