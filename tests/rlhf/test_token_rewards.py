"""Outcome and process reward models: where they speak, that they learn, that their heads survive the disk."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf import rewards
from rlhf.batching import collate
from rlhf.chat import Chat
from rlhf.models import Policy, RewardModel, new_policy
from rlhf.models.ensembles import RewardEnsemble, load_reward_model
from rlhf.models.token_rewards import TokenRewardModel
from rlhf.optimizer import OptimizerSettings
from rlhf.rewards import Asked
from rlhf.sampler import Completion
from rlhf.verification_training import Labelled, fit_token_rewards, outcomes, process

CHAT = Chat.from_words(["a", "b", "c", "d", "good", "bad", ";"])
WORDS = ("a", "b", "c", "d")


def policy() -> Policy:
    return new_policy(CHAT, seed=0, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)


def question(word: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": word}]


def fit(model: TokenRewardModel, rows: list[Labelled], epochs: int = 6, **settings: Any) -> float:
    result = fit_token_rewards(
        model, rows, epochs=epochs, batch_size=8, max_batch_tokens=512, seed=0, name="verifier",
        optimizer=OptimizerSettings(lr={"backbone": 3e-3, "head": 1e-2}), **settings,
    )  # fmt: skip
    return result.metrics["accuracy"]


@pytest.mark.parametrize("form", ["token", "sequence"])
def test_an_outcome_model_learns_what_a_verifier_says(form: str) -> None:
    """`good` and the word of the question is right. The last letter is held out."""
    asked = [Asked(CHAT.encode_prompt(question(word)), question(word), {"verifier": "exact", "answer": f"good {word}"})
             for word in WORDS]  # fmt: skip
    completions = [
        Completion(index, CHAT.encode_completion(f"{how} {word}"), [], "stop")
        for index, word in enumerate(WORDS) for how in ("good", "bad")
    ]  # fmt: skip
    cut = Completion(0, CHAT.encode_text("good"), [], "length")
    rows = outcomes(asked, [*completions, cut], CHAT.decode)
    assert [row.labels for row in rows] == [[1], [0]] * 4  # the cut one has no outcome
    model = TokenRewardModel(policy(), seed=0)
    fit(model, rows[:6] * 8, form=form)
    claims = rewards.claims(model, "last" if form == "token" else "mean", 64)
    right, wrong, unfinished = claims(asked, [*completions[6:], cut]).tolist()
    assert right > 0.9 > 0.1 > wrong
    assert unfinished == 0.0


def test_what_a_verifier_cannot_say_is_no_outcome() -> None:
    """In this process the first search would take half a minute."""
    chat = Chat.from_words(["a" * 27, "a", "b"])
    asked = [Asked([1], [], {"verifier": "regex", "answer": r"^(a+)+$"})]
    texts = ("a" * 27 + " b", "a", "b")
    completions = [Completion(0, chat.encode_completion(text), [], "stop") for text in texts]
    assert [row.labels for row in outcomes(asked, completions, chat.decode)] == [[1], [0]]


@pytest.mark.parametrize("classes", [1, 3])
def test_a_process_model_finds_the_step_that_is_wrong(classes: int) -> None:
    model = TokenRewardModel(policy(), seed=0, separator=";", classes=classes)
    bad = 0 if classes == 1 else -1
    rows = [
        process(model, {"messages": question(word), "steps": [f"{one} {word}", f"{two} {word}"],
                        "ratings": [1 if one == "good" else bad, 1 if two == "good" else bad]})
        for word in WORDS[:3] for one in ("good", "bad") for two in ("good", "bad")
    ]  # fmt: skip
    fit(model, rows * 4, epochs=12)
    texts = ["good d ; good d", "good d ; bad d ; good d"]
    batch = collate([
        ([*CHAT.encode_prompt(question("d")), *CHAT.encode_completion(text)],
         [False] * 4 + [True] * len(CHAT.encode_completion(text)))
        for text in texts
    ], CHAT.pad_id)  # fmt: skip
    with torch.no_grad():
        assert model.spoken(batch).sum(dim=1).tolist() == [2, 3]
        fine, spoilt = model.score(batch, "min").tolist()
        assert fine > 0.8 > 0.2 > spoilt
        assert model.score(batch, "mean")[1] > 0.5  # two of its three steps are right
        assert model.score(batch, "product")[1] <= spoilt + 1e-6


def test_where_steps_end() -> None:
    model = TokenRewardModel(policy(), seed=0, separator=";")

    def ends(*steps: str) -> list[str]:
        labelled = process(model, {"messages": question("a"), "steps": steps, "ratings": [1] * len(steps)})
        batch = collate([([9, *labelled.completion_ids], [False] + [True] * len(labelled.completion_ids))], 0)
        return [CHAT.tokenizer.id_to_token(int(batch.input_ids[0, at])) for at in model.spoken(batch)[0].nonzero()]

    assert ends("a b", "c") == [";", "<end>"]
    assert ends("a b ;", "c ;") == [";", ";"]  # the stop after a separator ends no step of its own
    with pytest.raises(ValueError, match=r"2 steps have 3 ends: a step is empty or holds ';' inside"):
        ends("a ; b", "c")
    with pytest.raises(ValueError, match="2 steps and 1 ratings"):
        process(model, {"messages": question("a"), "steps": ["a", "b"], "ratings": [1]})
    with pytest.raises(ValueError, match="no step separator"):
        process(TokenRewardModel(policy(), seed=0), {"steps": ["a"], "ratings": [1]})


def test_prompts_hold_no_steps() -> None:
    model = TokenRewardModel(policy(), seed=0, separator=";")
    ids = CHAT.encode_prompt(question("a ; b"))
    completion = CHAT.encode_completion("c")
    batch = collate([([*ids, *completion], [False] * len(ids) + [True] * len(completion))], CHAT.pad_id)
    assert model.spoken(batch)[0].nonzero().flatten().tolist() == [len(ids) + 1]


def test_a_separator_is_one_known_token() -> None:
    with pytest.raises(ValueError, match="expected exactly one that the model knows"):
        TokenRewardModel(policy(), seed=0, separator="a b")
    with pytest.raises(ValueError, match="expected exactly one that the model knows"):
        TokenRewardModel(policy(), seed=0, separator="unheard")
    with pytest.raises(ValueError, match="classes is 2"):
        TokenRewardModel(policy(), seed=0, classes=2)


@pytest.mark.parametrize(("separator", "classes"), [(None, 1), (";", 1), (";", 3)])
def test_heads_are_saved_and_checked(tmp_path: Path, separator: str | None, classes: int) -> None:
    model = TokenRewardModel(policy(), seed=3, separator=separator, classes=classes)
    batch = collate([([9, 6, 7, 12, 5], [False, False, True, True, True])], CHAT.pad_id)
    model.save(tmp_path / "a")
    loaded = TokenRewardModel.load(tmp_path / "a")
    assert torch.equal(loaded(batch), model(batch)) and torch.equal(loaded.spoken(batch), model.spoken(batch))
    loaded.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_another_head_is_not_taken_for_this_one(tmp_path: Path) -> None:
    TokenRewardModel(policy(), seed=0, separator=";", classes=3).save(tmp_path / "three")
    TokenRewardModel(policy(), seed=0).save(tmp_path / "one")
    RewardModel(policy(), seed=0).save(tmp_path / "pairs")
    shutil.copy(tmp_path / "one/head.safetensors", tmp_path / "three")
    with pytest.raises(ValueError, match=r"three/head\.safetensors holds .*\(1, 32\).*expected .*\(3, 32\)"):
        TokenRewardModel.load(tmp_path / "three")
    with pytest.raises(ValueError, match="pairs holds a reward_model, expected a token_reward_model"):
        TokenRewardModel.load(tmp_path / "pairs")


def test_an_ensemble_is_its_members_and_comes_back_from_disk(tmp_path: Path) -> None:
    members = [RewardModel(policy(), seed=seed) for seed in (1, 2)]
    members[1].normalise(0.5, 3.0)
    batch = collate([([9, 6, 7, 5], [False, False, True, True]), ([9, 8, 5], [False, True, True])], CHAT.pad_id)
    ensemble = RewardEnsemble(members, "min")
    torch.testing.assert_close(ensemble(batch), torch.minimum(members[0](batch), members[1](batch)))
    assert ensemble.std.item() == 2.0
    ensemble.normalise(-0.5, 0.25)
    torch.testing.assert_close(ensemble(batch), 4 * torch.minimum(members[0](batch), members[1](batch)) + 2)
    ensemble.normalise(1.0, 2.0)
    torch.testing.assert_close(ensemble(batch), 2 * torch.minimum(members[0](batch), members[1](batch)) + 0.5)
    assert ensemble.std.item() == 1.0  # a margin of 1 is one of ½ between members, of deviation 2
    for mean, std in ((0.0, 0.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="all equal"):
            ensemble.normalise(mean, std)
    ensemble.save(tmp_path / "several")
    loaded = load_reward_model(tmp_path / "several")
    assert torch.equal(loaded(batch), ensemble(batch))
    members[0].save(tmp_path / "single")
    assert isinstance(load_reward_model(tmp_path / "single"), RewardModel)
    with pytest.raises(ValueError, match=r"no head\.safetensors"):
        RewardModel.load(tmp_path / "several")
