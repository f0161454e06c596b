"""The graph of one cell of a comparison: dvc.yaml without the methods that the cell does not run, as text to text.

A method is a stage that trains by one of several algorithms: `algorithms.${SECTION.algorithm}` stands among its
`params`. The others that neither feed the cell's nor are fed by it are left out, and later stages lose the arguments
and dependencies that point to what they wrote. All other bytes stay, so that stages which cells share are the same
stages to DVC.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from ruamel.yaml import YAML

from tasks.config import ConfigError
from tasks.graph import Graph, graph_of, lookup
from tasks.lineage import policies_of

_CHOICE = re.compile(r"algorithms\.\$\{([\w.]+)\.algorithm\}")
_MODULE = re.compile(r"python -m tasks\.(\w+)")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Method:
    """A stage that trains by one of several algorithms."""

    stage: str
    section: str
    """Of params.yaml; `<section>.algorithm` chooses."""
    algorithms: tuple[str, ...]


def methods(text: str) -> list[Method]:
    """The methods of a dvc.yaml, in its order."""
    found = []
    for name, body in (read(text).get("stages") or {}).items():
        for param in body.get("params") or ():
            choice, module = _CHOICE.fullmatch(str(param)), _MODULE.search(str(body["cmd"]))
            if choice and module:
                found.append(Method(name, choice[1], _algorithms(module[1])))
    return found


def method_of(algorithm: str, known: Sequence[Method], stage: str = "") -> Method:
    """The method that has an algorithm: of several the last one, or that of `stage`.

    Raises:
        ConfigError: none has; the message names the nearest algorithm.
    """
    if stage and stage not in {method.stage for method in known}:
        raise ConfigError(f"--stage {stage}: not among {', '.join(method.stage for method in known) or 'none'}")
    among = [method for method in known if not stage or method.stage == stage]
    fitting = [method for method in among if algorithm in method.algorithms]
    if fitting:
        return fitting[-1]
    names = list(dict.fromkeys(name for method in among for name in method.algorithms))
    near = [] if algorithm in _blocks_of_params() else get_close_matches(algorithm, names, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(names) or 'none'}"
    raise ConfigError(f"--algorithm {algorithm}: no stage of this graph has it; {hint}")


def trimmed(text: str, stage: str) -> str:
    """A dvc.yaml without the methods that neither feed `stage` nor are fed by it, nor what only goes on from those.

    A stage with `meta: {report_on: NAME}` goes with that method, whatever else it reads.
    """
    described = read(text, places=True)
    graph = graph_of(described, None)
    reports = {name: (body.get("meta") or {}).get("report_on", "") for name, body in described["stages"].items()}
    dropped = _dropped(graph, stage, {method.stage for method in methods(text)}, reports)
    if not dropped:
        return text

    def gone(path: str) -> bool:
        makers = graph.makers(path)
        return bool(makers) and dropped.issuperset(makers)

    lines = text.splitlines()
    kept: list[str] = []
    at = 0
    for name, begin, end in _blocks(described["stages"], lines):
        kept += lines[at:begin]
        at = end
        if name not in dropped:
            block = lines[begin:end]
            needs = bool(dropped.intersection(graph.upstream[name]))
            kept += _without(block, described["stages"][name], begin, gone) if needs else block
    return "\n".join([*kept, *lines[at:]]) + "\n"


def reads(graph: Graph, text: str, key: str) -> bool:
    """Whether some stage depends on the parameter `key`, on a part of it or on a section that holds it."""
    asked = {param for stage in graph.stages.values() for param in stage.params}
    asked |= set(re.findall(r"\$\{([\w.]+)\}", text))
    return any(key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in asked)


def behind(graph: Graph, path: str, shown: Sequence[str], stage: str) -> tuple[str, ...]:
    """Those of `shown` that a stage reads which makes the policy at `path` or what it is measured with.

    Among them may be words that are no `key.path=value`: they stand for `stage` being one of those.
    """
    names = graph.ancestors(set(graph.makers(path))) | _measuring(graph)
    part = Graph({name: one for name, one in graph.stages.items() if name in names})
    return tuple(one for one in shown if (reads(part, "", one.partition("=")[0]) if "=" in one else stage in names))


def signatures(graph: Graph, params: Mapping[str, Any], outside: Callable[[str], str]) -> dict[str, str]:
    """For each stage a digest of all that its result depends on, known before anything runs.

    That is its command, parameters, outputs, the bytes (`outside`) of what no stage makes, and the signatures of the
    stages whose outputs it reads. Equal signatures are the same stage to DVC, in any graph.
    """
    found: dict[str, str] = {}
    for name, stage in graph.stages.items():
        parts = {
            "cmd": stage.cmd,
            "params": {param: lookup(params, param) for param in stage.params},
            "deps": {path: "" if graph.makers(path) else outside(path) for path in stage.deps},
            "outs": stage.outs,
            "upstream": [found[other] for other in graph.upstream[name]],
        }
        found[name] = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return found


def read(text: str, places: bool = False) -> Any:
    """A dvc.yaml as mappings; with `places` they know their lines."""
    return (YAML() if places else YAML(typ="safe")).load(text) or {}


def _algorithms(module: str) -> tuple[str, ...]:
    """The choices of `algorithm` in the section of a stage module."""
    from tasks.config.params import Params

    section: Any = Params.model_fields[module].annotation if module in Params.model_fields else None
    field = getattr(section, "model_fields", {}).get("algorithm")
    return get_args(field.annotation) if field else ()


def _blocks_of_params() -> set[str]:
    """Every algorithm there is, in this graph or not."""
    from tasks.config.params import Algorithms

    return set(Algorithms.model_fields)


def _dropped(graph: Graph, stage: str, alternatives: set[str], reports: Mapping[str, str]) -> set[str]:
    """The other methods, reports on them, and what goes on from them and is neither before nor behind the own stage."""
    own = graph.ancestors({stage}) | graph.descendants({stage})
    found = alternatives - own
    for name in graph.stages:
        if reports.get(name) in found or (name not in own and found.intersection(graph.upstream[name])):
            found.add(name)
    return found


def _measuring(graph: Graph) -> set[str]:
    """The evaluation and what feeds it besides the policies it compares; SFT is not only compared, KL is told to it."""
    policies = policies_of(graph)
    compared = {path for name, path in policies.items() if name != "sft"}
    found = set()
    for name, stage in graph.stages.items():
        if "tasks.evaluate" in stage.cmd.split():
            makers = {maker for path in stage.deps if path not in compared for maker in graph.makers(path)}
            found |= graph.ancestors(makers) | {name}
    return found


def _blocks(stages: Any, lines: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Name, first line and line behind the last one of each stage; a comment belongs to the stage below it."""

    def first(name: str) -> int:
        number = int(stages.lc.key(name)[0])
        while lines[number - 1].lstrip().startswith("#"):
            number -= 1
        return number

    names = list(stages)
    ends = [*(first(name) for name in names[1:]), len(lines)]
    for name, end in zip(names, ends, strict=True):
        begin = first(name)
        last = next((n for n in range(begin + 1, end) if lines[n] and not lines[n].startswith((" ", "#"))), end)
        yield name, begin, last


def _without(block: list[str], stage: Any, begin: int, gone: Callable[[str], bool]) -> list[str]:
    """The lines of a stage without the arguments and dependencies that are gone."""
    starts = sorted(int(stage.lc.key(key)[0]) - begin for key in stage)
    cmd = int(stage.lc.key("cmd")[0]) - begin
    behind = next((number for number in starts if number > cmd), len(block))
    lost = {int(stage["deps"].lc.item(n)[0]) - begin for n, dep in enumerate(stage["deps"]) if gone(str(dep))}
    head = [line for number, line in enumerate(block[:cmd]) if number not in lost]
    tail = [line for number, line in enumerate(block[behind:], behind) if number not in lost]
    return [*head, *_shortened(block[cmd:behind], gone), *tail]


def _shortened(lines: list[str], gone: Callable[[str], bool]) -> list[str]:
    """The lines of a command without words `PATH` and `NAME=PATH` that are gone, and options left without a word."""
    words = [word for line in lines for word in _WORD.findall(line)]
    out = {number for number, word in enumerate(words) if gone(word.rpartition("=")[2])}
    for number, word in enumerate(words):
        if word.startswith("--"):
            rest = range(number + 1, len(words))
            end = next((n for n in rest if words[n].startswith("--")), len(words))
            values = set(range(number + 1, end))
            if values and values <= out:
                out.add(number)
    kept, number = [], 0
    for line in lines:
        count = len(_WORD.findall(line))
        stay = [words[n] for n in range(number, number + count) if n not in out]
        if len(stay) == count:
            kept.append(line)
        elif stay:
            kept.append(line[: len(line) - len(line.lstrip())] + " ".join(stay))
        number += count
    return kept
