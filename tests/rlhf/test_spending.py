"""Seconds by kind of work, and what models need, against figures worked out by hand."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path

import pytest
import torch

from rlhf.batching import collate
from rlhf.chat import Chat
from rlhf.models import Policy, RewardModel, new_policy, save_policy, token_logprobs, trainable
from rlhf.models.needs import charge_sampling, sizes_of
from rlhf.optimizer import OptimizerSettings
from rlhf.sampler import sample
from rlhf.scoring import by_batch
from rlhf.spending import ACCOUNT, Account, Count
from rlhf.trainer import StepBatch, fit
from tasks.config.training import Training

BODY = 2 * (4 * 8 * 8 + 3 * 8 * 16)  # 2 blocks: q, k, v, o of 8 x 8 and three matrices of 8 x 16
PAIR = 4 * 8 * 2  # 4 times the width for each of 2 layers
HEAD = 8 * 10
Counts = Mapping[Count, float]


@pytest.fixture
def policy() -> Policy:
    chat = Chat.from_words(["a", "b", "c", "d"])
    assert chat.vocab_size == 10
    return new_policy(chat, 0, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=16, max_tokens=32)


@pytest.fixture
def before() -> Counts:
    return dict(ACCOUNT.counts)


def since(before: Counts) -> dict[str, float]:
    """What was counted meanwhile."""
    return {name: value - before[name] for name, value in ACCOUNT.counts.items() if value != before[name]}


def rows(*lengths: tuple[int, int]) -> list[tuple[list[int], list[bool]]]:
    """Rows of (prompt, completion) tokens."""
    return [([1] * (prompt + rest), [False] * prompt + [True] * rest) for prompt, rest in lengths]


def test_what_is_open_inside_pauses_what_is_open_around_it() -> None:
    ticks = count()
    account = Account(lambda: float(next(ticks)))  # every look at the clock is a second
    with account.spent("other"):  # 0
        with account.spent("train"):  # 1
            with account.spent("sample"):  # 2
                pass  # 3
            with account.spent("save"):  # 4
                pass  # 5
        pass  # 6
    assert next(ticks) == 8  # 7 ended it
    assert account.seconds == {"other": 2.0, "train": 3.0, "sample": 1.0, "save": 1.0, "score": 0.0}
    assert sum(account.seconds.values()) == 7.0


def test_time_is_charged_where_something_fails_too() -> None:
    ticks = count()
    account = Account(lambda: float(next(ticks)))
    with pytest.raises(ZeroDivisionError), account.spent("other"), account.spent("score"):
        raise ZeroDivisionError
    assert account.seconds["score"] == 1.0 and account.seconds["other"] == 2.0


def test_an_accelerator_is_waited_for_and_its_failures_are_for_others_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def fails() -> None:
        waits.append(1)
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with Account().spent("train"):
        pass
    assert len(waits) == 2


def test_sizes_of_a_small_llama(policy: Policy) -> None:
    assert (sizes_of(policy.model).weights, sizes_of(policy.model).per_pair) == (BODY, PAIR)


def test_a_pass_forward_only(policy: Policy, before: Counts) -> None:
    """Rows of 5 and 3 tokens, of which 2 and 1 go through the LM head; padding is free."""
    with torch.no_grad():
        token_logprobs(policy.model, collate(rows((3, 2), (2, 1)), 0))
    pairs = 5 * 6 / 2 + 3 * 4 / 2
    assert since(before) == {"tokens_processed": 8, "flops": 2 * BODY * 8 + PAIR * pairs + 2 * HEAD * 3}


def test_a_training_step_is_three_times_as_much(policy: Policy, before: Counts) -> None:
    batch = collate(rows((3, 2), (2, 1)), 0)
    fit(
        {"policy": policy.model},
        steps=2,
        batch_at=lambda _: StepBatch([batch], denominator=3.0),
        loss=lambda one: (-token_logprobs(policy.model, one).sum(), {}),
        optimizer=OptimizerSettings(lr=1e-3),
        seed=0,
        name="x",
    )
    pairs = 5 * 6 / 2 + 3 * 4 / 2
    step = 6 * BODY * 8 + 3 * PAIR * pairs + 6 * HEAD * 3
    assert since(before) == {"tokens_processed": 16, "tokens_trained": 16, "flops": 2 * step}


def test_a_frozen_backbone_under_a_head_has_no_backward_pass(policy: Policy, before: Counts) -> None:
    model = RewardModel(policy, 0)
    model.model.requires_grad_(False)
    model(collate(rows((3, 2)), 0)).sum().backward()
    assert since(before) == {"tokens_processed": 5, "flops": 2 * BODY * 5 + PAIR * 15 + 2 * HEAD * 2}


def test_under_an_adapter_the_base_has_no_gradient_of_its_own(policy: Policy, before: Counts, tmp_path: Path) -> None:
    """Rank 2 on the seven matrices of each block: 2 x (in + out) weights each, of which all are trained."""
    save_policy(policy, tmp_path)
    learner = trainable(tmp_path, Training(method="lora", rank=2, alpha=2.0), 0, "sft")
    token_logprobs(learner.model, collate(rows((3, 2)), 0)).sum().backward()
    adapter = 2 * 2 * (4 * (8 + 8) + 3 * (8 + 16))
    blocks = 4 * BODY * 5 + 6 * adapter * 5 + 3 * PAIR * 15
    head = 4 * HEAD * 2  # it is frozen too
    assert since(before) == {"tokens_processed": 5, "tokens_trained": 5, "flops": blocks + head}


def test_equal_texts_are_scored_once(policy: Policy, before: Counts) -> None:
    seconds = ACCOUNT.seconds["score"]
    by_batch(RewardModel(policy, 0), [([1, 1, 1], [2, 2])] * 3, 0, 64)
    assert since(before)["tokens_processed"] == 5
    assert ACCOUNT.seconds["score"] > seconds


def test_sampling_reads_a_prompt_once_and_never_the_last_token(policy: Policy, before: Counts) -> None:
    """A prompt of 3 with completions of 2 and 1: 3 + 1 tokens read, 3 drawn, pairs 1 + 2 + 3, then 4 for the fourth.

    Both first tokens come from one use of the LM head, the second token from another.
    """
    charge_sampling(policy.model, [3], [2, 1])
    expected = {"tokens_processed": 4, "tokens_sampled": 3, "flops": 2 * BODY * 4 + PAIR * 10 + 2 * HEAD * 2}
    assert since(before) == expected


def test_sampling_for_two_prompts_adds_up_what_each_needs(policy: Policy, before: Counts) -> None:
    """Prompts of 3 and 1, groups of 3. Read: 3 + 1 + 0 + 3 and 1 + 0 + 0 + 2. LM head: 1 + 4 and 1 + 2 times.

    Pairs: 1 + 2 + 3, then 4 for the first completion, 4 + 5 + 6 for the third; 1, then 2 + 3 for the last one.
    """
    charge_sampling(policy.model, [3, 1], [2, 1, 4, 1, 1, 3])
    expected = {"tokens_processed": 10, "tokens_sampled": 12, "flops": 2 * BODY * 10 + PAIR * 31 + 2 * HEAD * 8}
    assert since(before) == expected


def test_a_group_shares_what_its_prompt_costs(policy: Policy, before: Counts) -> None:
    """Four completions of one token need no more than one: the prompt is read once, and so is the LM head."""
    sample(policy, [[1, 2, 3]], max_new_tokens=1, temperature=1.0, group_size=4, seed=0)
    expected = {"tokens_processed": 3, "tokens_sampled": 4, "flops": 2 * BODY * 3 + PAIR * 6 + 2 * HEAD}
    assert since(before) == expected


def test_a_sampler_needs_what_one_pass_over_the_text_does(policy: Policy, before: Counts) -> None:
    """But for the last token, which nobody reads; with one completion a prompt nothing is shared."""
    (done,) = sample(policy, [[1, 2, 3]], max_new_tokens=6, temperature=1.0, group_size=1, seed=0)
    sampled, drawn = since(before), len(done.ids)
    then = dict(ACCOUNT.counts)
    with torch.no_grad():
        token_logprobs(policy.model, collate([([1, 2, 3, *done.ids], [False] * 3 + [True] * drawn)], 0))
    whole = since(then)
    assert sampled["tokens_sampled"] == drawn
    assert whole["flops"] - sampled["flops"] == 2 * BODY + PAIR * (3 + drawn)
