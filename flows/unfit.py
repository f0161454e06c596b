"""Stages that would refuse their settings when their turn came, hours later: refused before the first one."""

import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rlhf.errors import PreflowError
from tasks import rl_refusals
from tasks.config import read_yaml
from tasks.graph import SECTION, Graph, further_sections
from tasks.reward_inputs import lexicon_for, model_for

Options = Mapping[str, Path]
"""Paths of a stage's command by the names of their options, as the stage function has them."""


def refuse_unfit(tree: Path, graph: Graph, todo: Collection[str]) -> None:
    """Ask each stage that may have to run what it asks itself, as far as it needs no file.

    Raises:
        PreflowError: with the sentence of the stage.
    """
    for name, stage in graph.stages.items():
        found = SECTION.search(stage.cmd)
        if name in todo and found and found[1] in _CHECKS:
            try:
                _CHECKS[found[1]](_params(tree), found[2], _options(stage.cmd))
            except PreflowError as error:
                raise PreflowError(f"{name}: {error}") from None


def _params(tree: Path) -> Any:
    from tasks.config.params import with_sections

    return with_sections(further_sections(read_yaml(tree / "dvc.yaml"))).parse(read_yaml(tree / "params.yaml"), "")


def _options(cmd: str) -> Options:
    words = shlex.split(cmd)
    pairs = zip(words, [*words[1:], ""], strict=True)
    return {word.removeprefix("--").replace("-", "_"): Path(path) for word, path in pairs if word.startswith("--")}


def _rl(params: Any, section: str, given: Options) -> None:
    config = getattr(params, section)
    known = ("reward_model", "reward_metrics", "held_out", "demonstrations", "samples", "lexicon")
    paths = {name: given.get(name) for name in known}
    rl_refusals.refuse_unfit(config, getattr(params.algorithms, config.algorithm), params.training, **paths)


def _sample(params: Any, section: str, given: Options) -> None:
    rewards = getattr(params, section).rewards
    model_for(rewards, given.get("reward_model"))
    lexicon_for(rewards, given.get("lexicon"))


def _evaluate(params: Any, section: str, given: Options) -> None:
    if rewards := getattr(params, section).rewards:
        lexicon_for(rewards, given.get("lexicon"))


_CHECKS: Mapping[str, Callable[[Any, str, Options], None]] = {"rl": _rl, "sample": _sample, "evaluate": _evaluate}
