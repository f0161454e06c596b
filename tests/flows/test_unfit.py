"""Settings that a stage would refuse when its turn came end a run before its first stage."""

import threading
from pathlib import Path

import pytest

from flows import champion, launch, profiles
from flows.request import Wish
from flows.unfit import refuse_unfit
from rlhf.errors import PreflowError
from tasks.graph import load_graph
from tests.flows.toy import REPO, Nobody, git

PTX = "rl.ptx_coef is 0.5 and there are 0 demonstrations, expected at least 1: give --demonstrations a folder with"


def tree(folder: Path, profile: str = "", *settings: str) -> Path:
    resolved = profiles.resolve(REPO, profile, settings)
    (folder / "params.yaml").write_text(resolved.text)
    (folder / "dvc.yaml").write_bytes((resolved.dvc_yaml or REPO / "dvc.yaml").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("profile", "settings", "told"),
    [
        ("", ["rl.ptx_coef=0.5"], f"rl: {PTX}"),
        ("", ["rl.min_solve_rate=0.1"], "rl: rl.min_solve_rate 0.1 and max_solve_rate 1 need the rewards of a rollout"),
        ("", ["rl.rewards.sentiment=4"], "rl: rewards.sentiment has weight 4.0 and there is no lexicon: give"),
        ("", ["sample.rewards.sentiment=4"], "sample: rewards.sentiment has weight 4.0 and there is no lexicon"),
        (
            "",
            ["evaluate.rewards={reward_model: 0, sentiment: 1}"],
            "evaluate: rewards.sentiment has weight 1.0 and there is no lexicon",
        ),
        ("r1", ["rl_verifier.ptx_coef=0.5"], f"rl_verifier: {PTX}"),
        ("rlvr-only", ["rl.rewards.reward_model=1"], "rl: the reward model's own checks are not given"),
        ("", ["training.method=lora", "training.dropout=0.1"], "rl: training.dropout is 0.1, and rl learns from what"),
    ],
)
def test_what_the_command_does_not_give_is_said_as_the_stage_says_it(
    profile: str, settings: list[str], told: str, tmp_path: Path
) -> None:
    there = tree(tmp_path, profile, *settings)
    graph = load_graph(there)
    with pytest.raises(PreflowError) as refused:
        refuse_unfit(there, graph, set(graph.stages))
    assert str(refused.value).startswith(told)
    refuse_unfit(there, graph, set(graph.stages) - {told.partition(":")[0]})  # a stage that does not run asks nothing


@pytest.mark.parametrize("profile", ["", *profiles.names(REPO)])
def test_what_is_shipped_is_fit(profile: str, tmp_path: Path) -> None:
    there = tree(tmp_path, profile)
    graph = load_graph(there)
    refuse_unfit(there, graph, set(graph.stages))


def test_what_the_command_gives_may_be_asked_for(tmp_path: Path) -> None:
    for profile, setting in (("instructgpt", "rl.ptx_coef=0.5"), ("gsm8k", "rl.min_solve_rate=0.1")):
        there = tree(tmp_path, profile, setting)
        graph = load_graph(there)
        refuse_unfit(there, graph, set(graph.stages))


@pytest.mark.e2e
def test_a_run_is_refused_before_its_first_stage(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (launch, champion):
        monkeypatch.setattr(module, "tracking", Nobody())
    monkeypatch.setattr(launch, "_prefect", lambda _: None)  # it is not told of it
    tree(toy, "", "rl.ptx_coef=0.5")
    git(toy, "commit", "-qam", "the product's")
    with pytest.raises(PreflowError, match=f"rl: {PTX}"):
        launch.run(toy, Wish(), threading.Event(), show=lambda *_: None, say=print)
    assert [path.name for path in (toy / "data").iterdir()] == ["champion"]
    assert git(toy, "for-each-ref", "refs/preflow") == ""  # it would pass for the last run
