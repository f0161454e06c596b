"""From weights in a configuration to a scoring function."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import PreflowError
from rlhf.models import RewardModel
from rlhf.models.ensembles import RewardEnsemble, load_reward_model
from rlhf.rewards import Asked
from rlhf.sampler import Completion
from tasks.config import ConfigError
from tasks.config.generation import Generation
from tasks.config.rewards import Rewards
from tasks.rewards import _server, build, refuse_unverifiable
from tests.tasks import tiny

CHAT = tiny.chat()
ASKED = [Asked(CHAT.encode_prompt([{"role": "user", "content": "red"}]), [{"role": "user", "content": "red"}],
               {"answer": "yes"})]  # fmt: skip


def said(text: str, stopped: bool = True) -> Completion:
    ids = CHAT.encode_completion(text) if stopped else CHAT.encode_text(text)
    return Completion(0, ids, [-1.0] * len(ids), "stop" if stopped else "length")


def test_every_weight_reaches_its_component() -> None:
    config = Rewards(
        reward_model=0, verifier=1, verify_with="exact", format=10, format_pattern="yes.*", length=100, length_budget=2,
        missing_stop=1000,
    )  # fmt: skip
    score = build(config, Generation(), None, CHAT)
    found = score(ASKED, [said("yes"), said("yes no thanks", stopped=False), said("no")])
    assert list(found.components) == ["verifier", "format", "length", "missing_stop"]
    assert found.total.tolist() == [11.0, -100.0 - 1000.0, 0.0]


def test_sentiment_needs_its_lexicon(tmp_path: Path) -> None:
    config = Rewards(reward_model=0, sentiment=4)
    with pytest.raises(PreflowError, match=r"sentiment has weight 4\.0 and there is no lexicon: give --lexicon"):
        build(config, Generation(), None, CHAT)
    (tmp_path / "lexicon.txt").write_text("yes\t1.0\t0.5\t[1, 1]\n")
    found = build(config, Generation(), None, CHAT, lexicon=tmp_path / "lexicon.txt")(ASKED, [said("yes")])
    assert (found.components["sentiment"].item(), found.total.item()) == (0.25, 1.0)


def test_a_prompt_that_cannot_be_verified_is_found_before_any_work() -> None:
    metas = [{"verifier": "number", "answer": "4"}, {"verifier": "number", "answer": "four"}]
    with pytest.raises(PreflowError, match="holds no number"):
        refuse_unverifiable(Rewards(verifier=1), metas)
    refuse_unverifiable(Rewards(verifier=1), metas[:1])
    refuse_unverifiable(Rewards(verifier=1, verify_with="exact"), metas)
    refuse_unverifiable(Rewards(), metas)  # nobody asks


def test_the_judge_s_settings_reach_it() -> None:
    about = {"model": "toy", "max_tokens": 7, "timeout_seconds": 3.0, "attempts": 2}
    server = _server(Rewards.parse({"judge": 1, "judge_server": about}, "rl.rewards"))
    assert (server.model, server.max_tokens, server.timeout_seconds, server.attempts) == ("toy", 7, 3.0, 2)
    assert server.redact("see sk-" + "a" * 20) == "see [OpenAI-style key]"


def test_the_default_is_the_reward_model_alone(tmp_path: Path) -> None:
    tiny.save_models(tmp_path)
    score = build(Rewards(), Generation(unfinished_reward=-3.0), tmp_path / "policy_rm", CHAT)
    found = score(ASKED, [said("yes"), said("yes", stopped=False)])
    assert list(found.components) == ["reward_model"]
    assert found.total[1].item() == -3.0 != found.total[0].item()


def test_an_ensemble_on_disk_scores_as_one(tmp_path: Path) -> None:
    tiny.save_models(tmp_path)
    members = [RewardModel.load(tmp_path / name) for name in ("policy_rm", "held_out_rm")]
    RewardEnsemble(members, "mean").save(tmp_path / "both")
    assert isinstance(load_reward_model(tmp_path / "both"), RewardEnsemble)
    one, other, both = (
        build(Rewards(), Generation(), tmp_path / name, CHAT)(ASKED, [said("yes")]).total.item()
        for name in ("policy_rm", "held_out_rm", "both")
    )
    assert one != other and both == pytest.approx((one + other) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_model": 0}, "all rewards have weight 0"),
        ({"format": 1}, "format_pattern is null"),
        ({"judge": 1}, r"judge_server\.model is empty"),
        ({"verify_with": "sympy"}, "verify_with"),
        ({"judge_server": {"api_key": "x"}}, r"judge_server\.api_key: unknown key"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rewards.parse(settings, "rl.rewards")
