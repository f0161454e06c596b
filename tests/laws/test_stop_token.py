"""The stop token is trained exactly once a completion, wherever completions come from: a model that is never taught to
stop never stops. Padding is another token, and never trained."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rlhf import online
from rlhf.algorithms import last_token
from rlhf.batching import Batch, collate
from rlhf.chat import Chat
from rlhf.comparisons import by_prompt, comparison_batch
from rlhf.models import Policy, new_policy, save_policy
from rlhf.preferences import encode_example, example_batch
from rlhf.ptx import demonstrations_at
from rlhf.records import write_rows
from rlhf.rollouts import Rollout, write_rollouts
from rlhf.sampler import sample
from rlhf.trainer import FitResult
from rlhf.verification_training import Labelled, _batch
from tasks import rejection_sampling as rejection_stage
from tasks import sft as sft_stage
from tasks.config.generation import Generation
from tasks.config.rejection_sampling import RejectionSampling
from tasks.config.sft import Sft
from tasks.journal import Log
from tests.tasks import tiny

CHAT = Chat.from_words(["a", "b", "c"])
QUESTION = [{"role": "user", "content": "a b"}]
TALK = [
    *QUESTION, {"role": "assistant", "content": "c"}, {"role": "user", "content": "b"},
    {"role": "assistant", "content": "a a a"},
]  # fmt: skip


def trained_stops(batch: Batch, stop_id: int = CHAT.stop_id) -> list[int]:
    """How often each row trains the stop token. Asserts that it does so last, and that no padding is trained."""
    assert not (batch.loss_mask & ~batch.attention_mask).any()
    trained: Tensor = batch.loss_mask & (batch.input_ids == stop_id)
    last = last_token(batch.loss_mask)
    assert (trained.any(dim=1) == trained.gather(1, last[:, None]).squeeze(1)).all()
    return trained.sum(dim=1).tolist()


def test_demonstrations() -> None:
    final, every = CHAT.encode_conversation(TALK), CHAT.encode_conversation(TALK, loss_on="all")
    assert trained_stops(collate([final, CHAT.encode_conversation(TALK[:2])], CHAT.pad_id)) == [1, 1]
    assert trained_stops(collate([every], CHAT.pad_id)) == [2]
    (part,) = demonstrations_at(
        [final, CHAT.encode_conversation(TALK[:2])],
        ptx_coef=1.0,
        batch_size=2,
        pad_id=CHAT.pad_id,
        max_tokens=64,
        seed=0,
    )(0, 1.0)
    assert trained_stops(part.batch) == [1, 1]


def test_pairs_rankings_and_single_completions() -> None:
    row = {"messages": QUESTION, "chosen": "c c c", "rejected": "", "group": "g"}
    batch, _ = example_batch([encode_example(CHAT, row)], CHAT.pad_id)
    assert trained_stops(batch) == [1, 1]
    single = {"messages": QUESTION, "completion": "b", "label": True}
    assert trained_stops(example_batch([encode_example(CHAT, single)], CHAT.pad_id)[0]) == [1]
    rows = [row, row | {"rejected": "b c"}]
    assert trained_stops(comparison_batch(by_prompt(CHAT, rows), CHAT.pad_id).batch) == [1, 1, 1]
    labelled = [Labelled(CHAT.encode_prompt(QUESTION), CHAT.encode_completion(text), [1]) for text in ("a", "b c")]
    assert trained_stops(_batch(labelled, CHAT.pad_id)) == [1, 1]


def test_rollouts() -> None:
    """Those that came to their end have one, those that were cut off have none."""
    policy = new_policy(CHAT, 0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24, max_tokens=48)
    prompts = [CHAT.encode_prompt(QUESTION), CHAT.encode_prompt(TALK[:3])]
    completions = sample(policy, prompts, max_new_tokens=5, temperature=1.0, group_size=16, seed=0)
    batch, _ = online.to_batch(prompts, completions, CHAT.pad_id)
    stopped = [one.stop_reason == "stop" for one in completions]
    assert 0 < sum(stopped) < len(stopped)
    assert trained_stops(batch) == [int(one) for one in stopped]


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """What the stages `sft` and `rejection_sampling` hand to training, one batch a call."""
    seen: list[Batch] = []

    def fit_supervised(policy: Policy, sequences: Any, **_: Any) -> FitResult:
        seen.append(collate(sequences, policy.chat.pad_id))
        return FitResult(steps=1, resumed_from=0, nonfinite=0, metrics={})

    monkeypatch.setattr(sft_stage, "fit_supervised", fit_supervised)
    monkeypatch.setattr(rejection_stage, "fit_supervised", fit_supervised)
    return seen


@pytest.mark.parametrize(("loss_on", "stops"), [("final", 1), ("all", 2)])
def test_stage_sft(loss_on: str, stops: int, trained_on: list[Batch], tmp_path: Path) -> None:
    save_policy(tiny.policy(), tmp_path / "base")
    talk = [{"role": role, "content": "red one"} for role in ("user", "assistant", "user", "assistant")]
    for split in ("train", "val"):
        write_rows(tmp_path / f"demonstrations/{split}.jsonl", [{"id": str(row), "messages": talk} for row in range(3)])
    sft_stage.sft(
        Sft(loss_on=loss_on, num_samples=1), generation=Generation(max_new_tokens=4), seed=0, base=tmp_path / "base",  # type: ignore[arg-type]
        demonstrations=tmp_path / "demonstrations", out=tmp_path / "out", scratch=tmp_path, log=Log.null(),
    )  # fmt: skip
    (batch,) = trained_on
    assert trained_stops(batch, tiny.chat().stop_id) == [stops] * 3


def test_stage_rejection_sampling(trained_on: list[Batch], tmp_path: Path) -> None:
    """The best and their random twins; of each prompt one completion was cut off, with the highest reward."""
    chat = tiny.chat()
    save_policy(tiny.policy(), tmp_path / "policy")
    rows = []
    for prompt, word in enumerate(tiny.WORDS[:5]):
        for text, reward, reason in (("yes", 1.0, "stop"), ("no no no", 0.0, "stop"), ("one two", 9.0, "length")):
            ids = chat.encode_completion(text)[: None if reason == "stop" else -1]
            rows.append(Rollout(
                prompt_id=str(prompt), group=str(prompt), completion_ids=ids, logprobs=[-1.0] * len(ids),
                prompt_ids=chat.encode_prompt([{"role": "user", "content": word}]), stop_reason=reason, text=text,
                reward=reward, policy="p",
            ))  # fmt: skip
    write_rollouts(tmp_path / "rollouts.jsonl", rows)
    rejection_stage.rejection_sampling(
        RejectionSampling(), seed=0, policy=tmp_path / "policy", rollouts=tmp_path, out=tmp_path / "out",
        scratch=tmp_path, log=Log.null(),
    )  # fmt: skip
    assert [trained_stops(batch, chat.stop_id) for batch in trained_on] == [[1] * 5, [1] * 5]
