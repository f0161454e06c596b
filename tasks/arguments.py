"""What a stage function wants, told by its type hints: options of its command line, and values for its parameters.

    config: Section             the section of params.yaml that --params names
    algorithm: A | B            the block of `algorithms` that config.algorithm names, of the class with that name
    name: Section               the section of that name, which several stages share
    seed: int                   the seed of the run
    name: Path                  --name PATH; may be left out where it is `Path | None`
    name: dict[str, Path]       --name NAME=PATH NAME=PATH …

`out`, `scratch`, `shared` and `log` are the adapter's business (`tasks.stage`).
"""

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_origin, get_type_hints

from tasks.config import ConfigError, Section

Stage = Callable[..., None]


def parser(function: Stage) -> argparse.ArgumentParser:
    """The command line of a stage."""
    doc = inspect.getdoc(sys.modules["__main__"]) or inspect.getdoc(function) or ""
    options = argparse.ArgumentParser(
        prog=f"python -m tasks.{function.__name__}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--params", required=True, help="section of params.yaml that configures this stage")
    for name, optional in paths(function).items():
        options.add_argument(_option(name), type=Path, required=not optional, metavar="PATH")
    for name in named_paths(function):
        options.add_argument(_option(name), type=_named_path, nargs="+", required=True, metavar="NAME=PATH")
    options.add_argument("--out", type=Path, required=True, metavar="PATH", help="folder to write")
    return options


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _named_path(text: str) -> tuple[str, Path]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"`{text}`: expected NAME=PATH, for example rl=data/10_rl/policy")
    return name, Path(path)


def named_paths(function: Stage) -> list[str]:
    """Parameters of a stage function that take any number of paths, each with a name (`dict[str, Path]`)."""
    return [name for name, kind in get_type_hints(function).items() if get_origin(kind) is dict]


def paths(function: Stage) -> dict[str, bool]:
    """Path parameters of a stage function, and whether each may be left out."""
    found = {}
    for name, kind in get_type_hints(function).items():
        if name in ("out", "scratch", "shared", "return"):
            continue
        if kind is Path:
            found[name] = False
        elif isinstance(kind, UnionType) and Path in kind.__args__:
            found[name] = True
    return found


def inputs_of(function: Stage, arguments: argparse.Namespace, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage function is called with, but for `out`, `scratch`, `shared` and `log`.

    Raises:
        ConfigError: a key or value of params.yaml that the stage does not allow, or a name given twice.
    """
    hints = get_type_hints(function)
    config = _section(hints["config"], params, arguments.params)
    inputs: dict[str, Any] = {"config": config}
    if "seed" in hints:
        inputs["seed"] = int(params.get("seed", 0))
    if "algorithm" in hints:
        chosen: str = config.algorithm  # type: ignore[attr-defined]
        blocks = params.get("algorithms") or {}
        variant = _variant(hints["algorithm"], chosen, arguments.params)
        inputs["algorithm"] = _section(variant, blocks, chosen, prefix="algorithms.")
    for name in sections(hints):
        inputs[name] = _section(hints[name], params, name)
    for name in paths(function):
        inputs[name] = getattr(arguments, name)
    for name in named_paths(function):
        inputs[name] = _without_doubles(_option(name), getattr(arguments, name))
    return inputs


def _without_doubles(option: str, given: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    found = dict(given)
    if len(found) < len(given):
        names = [name for name, _ in given]
        doubles = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(f"{option}: {', '.join(doubles)} is given more than once; every path needs a name of its own")
    return found


def sections(hints: Mapping[str, Any]) -> list[str]:
    """Parameters that are sections shared by several stages, under the names they have in params.yaml."""
    own = ("config", "algorithm", "return")
    return [
        name for name, kind in hints.items() if name not in own and isinstance(kind, type) and issubclass(kind, Section)
    ]


def _section(cls: type[Section], params: Mapping[str, Any], name: str, prefix: str = "") -> Section:
    values = params.get(name)
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"params.yaml: `{prefix}{name}` must hold `key: value` lines")
    return cls.parse(values, f"{prefix}{name}")


def _variant(union: Any, name: str, section: str) -> type[Section]:
    """The algorithm's own config class: the member of the union that has its name."""
    members = {member.name: member for member in getattr(union, "__args__", (union,))}
    if name not in members:
        raise ConfigError(f"{section}.algorithm: `{name}` is unknown; there are {', '.join(members)}")
    found: type[Section] = members[name]
    return found
