"""What every sampler must do: one contract, for ours, continuous batching, and a server that speaks the protocol."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.batching import collate
from rlhf.chat import Chat
from rlhf.errors import NumericsError, PreflowError
from rlhf.models import Policy, new_policy, save_policy, token_logprobs, trainable
from rlhf.remote import Remote
from rlhf.sampler import Completion, Sampler, sample
from rlhf.samplers.continuous import sample_continuously
from rlhf.samplers.hand_over import WEIGHTS, version_of
from rlhf.samplers.server import Server
from tasks.config.training import Training
from tests.rlhf.conftest import tiny_gpt2, tiny_llama
from tests.rlhf.stub_sampler import stub_of

MAKERS: dict[str, Callable[[Chat], Policy]] = {"llama": tiny_llama, "gpt2": tiny_gpt2}
STOPS = 1.5
"""The stop token's row of the head is so much longer, and rows finish at different steps."""


@pytest.fixture(params=["llama", "gpt2"])
def policy(request: pytest.FixtureRequest, chat: Chat) -> Policy:
    made = MAKERS[request.param](chat)
    with torch.no_grad():
        made.model.get_output_embeddings().weight[chat.stop_id] *= STOPS
    return made


HERE: dict[str, Sampler] = {"ours": sample, "continuous_batching": sample_continuously}
ON_A_GPU = [pytest.param(f"{name}, cuda", marks=pytest.mark.gpu) for name in HERE]


@pytest.fixture(params=[*HERE, "server", *ON_A_GPU])
def sampler(request: pytest.FixtureRequest, policy: Policy, tmp_path: Path) -> Iterator[Sampler]:
    name, _, device = request.param.partition(", ")
    policy.model.to(device or "cpu")
    if name in HERE:
        yield HERE[name]
        return
    save_policy(policy, tmp_path / "started_on")
    with stub_of(tmp_path / "started_on") as stub:
        remote = Remote(name="sampler server", url=stub.url, see="log", timeout_seconds=60.0)
        yield Server(remote, WEIGHTS, tmp_path / "handed_over")


def ragged_prompts(chat: Chat, lengths: tuple[int, ...] = (3, 9, 5, 9, 4, 12, 3)) -> list[list[int]]:
    numbers = torch.Generator().manual_seed(7)
    return [torch.randint(6, chat.vocab_size, (length,), generator=numbers).tolist() for length in lengths]


def generate_greedily(policy: Policy, prompt: list[int], max_new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt], device=policy.model.device)
    output = policy.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens,
        eos_token_id=policy.chat.stop_id, pad_token_id=policy.chat.pad_id,
    )  # fmt: skip
    return output[0, len(prompt) :].tolist()


def trainers(policy: Policy, prompts: list[list[int]], drawn: list[Completion], temperature: float) -> Tensor:
    sequences = [
        (prompts[one.prompt_index] + one.ids, [False] * len(prompts[one.prompt_index]) + [True] * len(one.ids))
        for one in drawn
    ]
    batch = collate(sequences, policy.chat.pad_id)
    return token_logprobs(policy.model, batch, temperature)[batch.loss_mask].detach()


def recorded(drawn: list[Completion]) -> Tensor:
    return torch.tensor([value for one in drawn for value in one.logprobs])


def test_greedy_is_generate_whatever_the_seed(policy: Policy, sampler: Sampler) -> None:
    prompts = ragged_prompts(policy.chat)
    drawn = sampler(policy, prompts, max_new_tokens=12, temperature=0, group_size=2, seed=3)
    expected = [generate_greedily(policy, prompt, 12) for prompt in prompts]
    assert [one.ids for one in drawn] == [ids for ids in expected for _ in range(2)]
    torch.testing.assert_close(recorded(drawn), trainers(policy, prompts, drawn, 1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_trainers_at_that_temperature(policy: Policy, sampler: Sampler, temperature: float) -> None:
    prompts = ragged_prompts(policy.chat)
    drawn = sampler(policy, prompts, max_new_tokens=16, temperature=temperature, group_size=6, seed=1)
    assert len({len(one.ids) for one in drawn}) > 2
    torch.testing.assert_close(recorded(drawn), trainers(policy, prompts, drawn, temperature), atol=1e-4, rtol=0)


def test_order_stop_and_length(policy: Policy, sampler: Sampler) -> None:
    prompts, stop_id = ragged_prompts(policy.chat), policy.chat.stop_id
    drawn = sampler(policy, prompts, max_new_tokens=8, temperature=1.0, group_size=5, seed=2)
    assert [one.prompt_index for one in drawn] == [index for index in range(len(prompts)) for _ in range(5)]
    assert Counter(one.stop_reason for one in drawn).keys() == {"stop", "length"}
    for one in drawn:
        assert len(one.ids) == len(one.logprobs)
        assert one.ids.count(stop_id) == (one.stop_reason == "stop")
        assert (one.ids[-1] == stop_id) if one.stop_reason == "stop" else len(one.ids) == 8
    one = next(one for one in drawn if one.stop_reason == "stop")
    assert one.policy_version in ("", version_of(policy))
    assert sampler(policy, [], max_new_tokens=8, temperature=1.0, group_size=5, seed=2) == []


def test_a_stop_on_the_last_token_is_a_stop(policy: Policy, sampler: Sampler) -> None:
    drawn = sampler(policy, ragged_prompts(policy.chat), max_new_tokens=2, temperature=1.0, group_size=40, seed=2)
    full = [one for one in drawn if len(one.ids) == 2]
    assert {one.stop_reason for one in full} == {"stop", "length"}
    assert all((one.ids[1] == policy.chat.stop_id) == (one.stop_reason == "stop") for one in full)


def test_one_seed_gives_the_same_again_and_another_does_not(policy: Policy, sampler: Sampler) -> None:
    prompt = ragged_prompts(policy.chat)[0]

    def ids(seed: int) -> list[list[int]]:
        drawn = sampler(policy, [prompt] * 3, max_new_tokens=12, temperature=1.0, group_size=4, seed=seed)
        return [one.ids for one in drawn]

    assert ids(0) == ids(0) != ids(1)
    assert len({tuple(one) for one in ids(0)}) > 6  # neither the copies of a prompt nor those of a group are alike


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_frequencies_match_the_softmax(policy: Policy, sampler: Sampler, temperature: float) -> None:
    """χ² of 2000 first tokens against the model's own distribution; the 99.9% point at 25 degrees is 52.6."""
    prompt, draws = ragged_prompts(policy.chat)[1], 2000
    drawn = sampler(policy, [prompt], max_new_tokens=1, temperature=temperature, group_size=draws, seed=5)
    logits = policy.model(input_ids=torch.tensor([prompt], device=policy.model.device)).logits[0, -1].detach().cpu()
    expected = draws * (logits / temperature).softmax(-1)
    counts = torch.bincount(torch.tensor([one.ids[0] for one in drawn]), minlength=len(logits))
    assert (expected > 0.5).sum() > 8  # a distribution worth testing
    assert ((counts - expected) ** 2 / expected.clamp(min=0.5)).sum() < 52.6


@pytest.mark.parametrize("name", HERE)
def test_no_token_is_out_of_reach(name: str) -> None:
    """Of 105 tokens about as likely: engines like to keep to the best 50."""
    policy = new_policy(Chat.from_words([f"w{number}" for number in range(99)]), 0, hidden_size=32, num_heads=2)
    drawn = HERE[name](policy, [[6, 7]], max_new_tokens=1, temperature=1.0, group_size=1000, seed=0)
    assert len({one.ids[0] for one in drawn}) == policy.chat.vocab_size


def test_samples_are_of_the_weights_as_they_are_now(policy: Policy, sampler: Sampler) -> None:
    prompts = ragged_prompts(policy.chat)
    before = sampler(policy, prompts, max_new_tokens=8, temperature=0, group_size=1, seed=0)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(weight.device)
    after = sampler(policy, prompts, max_new_tokens=8, temperature=0, group_size=1, seed=0)
    assert [one.ids for one in after] == [generate_greedily(policy, prompt, 8) for prompt in prompts]
    assert [one.ids for one in after] != [one.ids for one in before]
    torch.testing.assert_close(recorded(after), trainers(policy, prompts, after, 1.0), atol=1e-4, rtol=0)


def test_it_leaves_no_trace(policy: Policy, sampler: Sampler) -> None:
    """Neither in the global generator nor in the model."""
    prompts, attention = ragged_prompts(policy.chat), policy.model.config._attn_implementation
    policy.model.train()
    numbers, version = torch.get_rng_state(), version_of(policy)
    sampler(policy, prompts, max_new_tokens=3, temperature=1.0, group_size=1, seed=0)
    assert torch.equal(torch.get_rng_state(), numbers) and version_of(policy) == version
    assert policy.model.training and policy.model.config._attn_implementation == attention


def test_what_does_not_fit_is_named(policy: Policy, sampler: Sampler) -> None:
    room = policy.model.config.max_position_embeddings
    assert len(sampler(policy, [[6] * (room - 4)], max_new_tokens=4, temperature=0, group_size=1, seed=0)) == 1
    with pytest.raises(ValueError, match=f"prompt 1 has {room - 3} tokens"):
        sampler(policy, [[6], [6] * (room - 3)], max_new_tokens=4, temperature=0, group_size=1, seed=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        sampler(policy, [[6]], max_new_tokens=4, temperature=-1, group_size=1, seed=0)


# What is continuous batching's alone


def test_continuous_batching_names_what_its_engine_met(chat: Chat) -> None:
    policy = tiny_llama(chat)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[7] = torch.nan
    with pytest.raises(PreflowError, match=r"continuous batching ended with an error .* set rl\.sampler to ours"):
        sample_continuously(policy, [[6, 7]], max_new_tokens=3, temperature=1.0, group_size=2, seed=0)
    with pytest.raises(NumericsError, match="not finite"):
        sample_continuously(policy, [[6, 7]], max_new_tokens=3, temperature=0, group_size=1, seed=0)


def test_continuous_batching_refuses_adapters(chat: Chat, tmp_path: Path) -> None:
    save_policy(tiny_llama(chat), tmp_path / "base")
    policy = trainable(tmp_path / "base", Training(method="lora"), 0, "rl")
    with pytest.raises(PreflowError, match=r"set rl\.sampler to ours, or training\.method to full"):
        sample_continuously(policy, [[6, 7]], max_new_tokens=3, temperature=1.0, group_size=2, seed=0)


def test_continuous_batching_takes_more_rows_and_longer_prompts_than_it_has_at_a_time(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.samplers.continuous.ROWS", 4)
    monkeypatch.setattr("rlhf.samplers.continuous.BATCH_TOKENS", 16)
    policy, prompts = tiny_llama(chat), ragged_prompts(chat, (50, 5, 17))
    drawn = sample_continuously(policy, prompts, max_new_tokens=6, temperature=1.0, group_size=7, seed=0)
    assert [one.prompt_index for one in drawn] == [index for index in range(3) for _ in range(7)]
    torch.testing.assert_close(recorded(drawn), trainers(policy, prompts, drawn, 1.0), atol=1e-4, rtol=0)
