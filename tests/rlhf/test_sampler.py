"""The sampler against transformers' generate, the trainer's log-probabilities, and the distribution it claims."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.batching import collate
from rlhf.errors import NumericsError
from rlhf.models import Policy, adapt_policy, token_logprobs
from rlhf.sampler import LOOK_EVERY, Completion, draw, sample


def ragged_prompts(policy: Policy, lengths: tuple[int, ...] = (3, 9, 5, 9, 4, 12, 3)) -> list[list[int]]:
    numbers = torch.Generator().manual_seed(7)
    start = min(20, policy.chat.vocab_size - 10)
    return [torch.randint(6, start, (length,), generator=numbers).tolist() for length in lengths]


def generate_greedily(policy: Policy, prompt: list[int], max_new_tokens: int) -> list[int]:
    output = policy.model.generate(
        input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
        max_new_tokens=max_new_tokens, eos_token_id=policy.chat.stop_id, pad_token_id=policy.chat.pad_id,
    )  # fmt: skip
    return output[0, len(prompt) :].tolist()


def more_stops(policy: Policy) -> Policy:
    """Make the stop token likely enough that rows finish at different steps."""
    head = policy.model.get_output_embeddings()
    with torch.no_grad():
        head.weight[policy.chat.stop_id] *= 1.5
    return policy


def test_greedy_is_generate(policy: Policy) -> None:
    prompts = ragged_prompts(policy)
    got = sample(policy, prompts, max_new_tokens=20, temperature=0, group_size=1, seed=0)
    assert [one.ids for one in got] == [generate_greedily(policy, prompt, 20) for prompt in prompts]


def test_greedy_is_generate_on_a_pretrained_model(shared: Path) -> None:
    policy = adapt_policy(shared / "models" / "stories260K", seed=0)
    texts = ["Once upon a time", "The dog was very", "Lily"]
    prompts = [[policy.chat.bos_id, *policy.chat.encode_text(text)] for text in texts]
    got = sample(policy, prompts, max_new_tokens=30, temperature=0, group_size=1, seed=0)
    assert [one.ids for one in got] == [generate_greedily(policy, prompt, 30) for prompt in prompts]
    assert policy.chat.decode(got[0].ids).startswith(", there was a little girl named")


def placed_logprobs(
    policy: Policy, prompts: list[list[int]], completions: list[Completion], temperature: float
) -> Tensor:
    sequences = [
        (prompts[one.prompt_index] + one.ids, [False] * len(prompts[one.prompt_index]) + [True] * len(one.ids))
        for one in completions
    ]
    batch = collate(sequences, policy.chat.pad_id)
    return token_logprobs(policy.model, batch, temperature)[batch.loss_mask]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_trainers(policy: Policy, temperature: float) -> None:
    prompts = ragged_prompts(more_stops(policy))
    got = sample(policy, prompts, max_new_tokens=16, temperature=temperature, group_size=6, seed=1)
    assert len({len(one.ids) for one in got}) > 5  # rows were dropped along the way
    recorded = torch.tensor([value for one in got for value in one.logprobs])
    torch.testing.assert_close(recorded, placed_logprobs(policy, prompts, got, temperature), atol=1e-5, rtol=0)


def test_greedy_logprobs_are_untempered(llama: Policy) -> None:
    prompts = ragged_prompts(llama)
    got = sample(llama, prompts, max_new_tokens=5, temperature=0, group_size=1, seed=1)
    recorded = torch.tensor([value for one in got for value in one.logprobs])
    torch.testing.assert_close(recorded, placed_logprobs(llama, prompts, got, 1.0), atol=1e-5, rtol=0)


def test_order_stop_and_length(llama: Policy) -> None:
    prompts, stop_id = ragged_prompts(more_stops(llama)), llama.chat.stop_id
    got = sample(llama, prompts, max_new_tokens=8, temperature=1.0, group_size=5, seed=2, batch_size=10)
    assert [one.prompt_index for one in got] == [index for index in range(len(prompts)) for _ in range(5)]
    assert Counter(one.stop_reason for one in got).keys() == {"stop", "length"}
    for one in got:
        assert len(one.ids) == len(one.logprobs)
        assert one.ids.count(stop_id) == (one.stop_reason == "stop")
        assert (one.ids[-1] == stop_id) if one.stop_reason == "stop" else len(one.ids) == 8


def test_a_stop_on_the_last_token_is_a_stop(llama: Policy) -> None:
    prompts = ragged_prompts(more_stops(llama))
    free = sample(llama, prompts, max_new_tokens=8, temperature=1.0, group_size=5, seed=2)
    one = next(one for one in free if one.stop_reason == "stop" and len(one.ids) > 1)
    cut = sample(llama, prompts, max_new_tokens=len(one.ids), temperature=1.0, group_size=5, seed=2)
    assert cut[free.index(one)].ids == one.ids
    assert cut[free.index(one)].stop_reason == "stop"


def test_a_row_does_not_depend_on_its_batch(policy: Policy) -> None:
    prompts = ragged_prompts(more_stops(policy))
    together = sample(policy, prompts, max_new_tokens=12, temperature=1.0, group_size=4, seed=3)
    for batch_size in (1, 8):
        apart = sample(policy, prompts, max_new_tokens=12, temperature=1.0, group_size=4, seed=3, batch_size=batch_size)
        assert [one.ids for one in apart] == [one.ids for one in together]
    others = [prompts[0], *ragged_prompts(policy, (11, 2, 7))]
    among_others = sample(policy, others, max_new_tokens=12, temperature=1.0, group_size=4, seed=3)
    assert [one.ids for one in among_others[:4]] == [one.ids for one in together[:4]]


@pytest.mark.parametrize("every", [7, 1000])
def test_rows_that_are_looked_at_less_often_are_the_same(
    policy: Policy, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: rows that have finished write on for a while, or up to the end."""
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[policy.chat.stop_id] *= 1.5

    def drawn() -> list[Completion]:
        prompts = [[6, 7], [8, 9, 10, 11], [12]]
        return sample(policy, prompts, max_new_tokens=24, temperature=1.0, group_size=20, seed=4)

    looked_at_each_step = drawn()
    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    assert len({len(one.ids) for one in looked_at_each_step}) > 3
    assert [one.ids for one in drawn()] == [one.ids for one in looked_at_each_step]


def test_draws_belong_to_seed_prompt_and_sample(llama: Policy) -> None:
    prompt = ragged_prompts(llama)[0]

    def ids(seed: int, group_size: int, copies: int = 1) -> list[list[int]]:
        got = sample(llama, [prompt] * copies, max_new_tokens=12, temperature=1.0, group_size=group_size, seed=seed)
        return [one.ids for one in got]

    assert ids(0, 6)[:2] == ids(0, 2)
    assert ids(0, 2) != ids(1, 2)
    assert len({tuple(one) for one in ids(0, 3, copies=3)}) == 9


def test_the_global_generator_is_neither_read_nor_moved(llama: Policy) -> None:
    before = torch.get_rng_state()
    first = sample(llama, ragged_prompts(llama), max_new_tokens=5, temperature=1.0, group_size=2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert sample(llama, ragged_prompts(llama), max_new_tokens=5, temperature=1.0, group_size=2, seed=0) == first


def test_frequencies_match_the_softmax(llama: Policy) -> None:
    """χ² of 4000 first tokens against the model's own distribution; the 99.9% point at 25 degrees is 52.6."""
    prompt, draws, temperature = ragged_prompts(llama)[1], 4000, 0.8
    got = sample(llama, [prompt], max_new_tokens=1, temperature=temperature, group_size=draws, seed=5)
    logits = llama.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = draws * (logits / temperature).softmax(-1)
    counts = torch.bincount(torch.tensor([one.ids[0] for one in got]), minlength=len(logits))
    assert (expected > 0.5).sum() > 10  # a distribution worth testing
    assert ((counts - expected) ** 2 / expected.clamp(min=0.5)).sum() < 52.6


def test_draw_inverts_the_cumulative_distribution() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0]).log().repeat(6, 1)
    uniforms = torch.tensor([0.0, 0.199, 0.201, 0.699, 0.701, 1 - 2**-53], dtype=torch.float64)
    ids, logprobs = draw(logits, 1.0, uniforms)
    assert ids.tolist() == [0, 0, 2, 2, 3, 3]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3, 0.3]))


@pytest.mark.parametrize("size", [3, 1000, 50_000])
def test_draw_never_leaves_the_support(size: int) -> None:
    """At both ends of [0, 1), at a number rounded up to 1, with impossible tokens at both ends of the vocabulary."""
    logits = torch.randn(200, size, generator=torch.Generator().manual_seed(size)) * 5
    logits[:, 0] = logits[:, -1] = -torch.inf
    for end in (0.0, 1 - 2**-53, 1.0):
        ids, logprobs = draw(logits, 1.0, torch.full((200,), end, dtype=torch.float64))
        assert logprobs.isfinite().all()
        assert ((ids > 0) & (ids < size - 1)).all()


def test_dropout_is_off_while_sampling_and_the_mode_comes_back(policy: Policy) -> None:
    prompts = ragged_prompts(policy)
    expected = sample(policy, prompts, max_new_tokens=6, temperature=0, group_size=1, seed=0)
    policy.model.train()
    assert sample(policy, prompts, max_new_tokens=6, temperature=0, group_size=1, seed=0) == expected
    assert policy.model.training


def test_logits_that_are_not_finite_are_an_error(llama: Policy) -> None:
    with torch.no_grad():
        llama.model.get_output_embeddings().weight[7] = torch.nan
    with pytest.raises(NumericsError, match="not finite"):
        sample(llama, ragged_prompts(llama), max_new_tokens=3, temperature=1.0, group_size=1, seed=0)


def test_prompts_that_do_not_fit_are_named(policy: Policy) -> None:
    room = policy.model.config.max_position_embeddings
    fits = [[6] * (room - 4)]
    assert len(sample(policy, fits, max_new_tokens=4, temperature=0, group_size=1, seed=0)) == 1
    with pytest.raises(ValueError, match=f"prompt 1 has {room - 3} tokens.*1 to {room - 4}"):
        sample(policy, [*fits, [6] * (room - 3)], max_new_tokens=4, temperature=0, group_size=1, seed=0)
    with pytest.raises(ValueError, match="prompt 0 has 0 tokens"):
        sample(policy, [[]], max_new_tokens=4, temperature=0, group_size=1, seed=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        sample(policy, fits, max_new_tokens=4, temperature=-1, group_size=1, seed=0)


def test_progress_counts_rows(llama: Policy) -> None:
    seen: list[tuple[int, int]] = []
    prompts = ragged_prompts(llama)
    sample(
        llama, prompts, max_new_tokens=2, temperature=1.0, group_size=3, seed=0, batch_size=6,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(6, 21), (12, 21), (18, 21), (21, 21)]
    assert sample(llama, [], max_new_tokens=2, temperature=1.0, group_size=3, seed=0) == []
