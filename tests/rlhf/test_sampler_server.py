"""A sampler server that is slow, broken or behind: the right samples, or the error that says so."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.chat import Chat
from rlhf.errors import DependencyDown, PreflowError
from rlhf.models import Policy, load_policy, trainable
from rlhf.remote import Remote
from rlhf.sampler import sample
from rlhf.samplers.hand_over import ADAPTER, WEIGHTS, HandOver, version_of
from rlhf.samplers.server import Server
from tasks.config.training import Training
from tests.rlhf.conftest import WORDS, tiny_llama
from tests.rlhf.stub_sampler import ATTEMPTS, PROMPTS, Answer, Cut, Stub, draw, right, server


def greedy(sampler: Any, policy: Policy) -> list[list[int]]:
    drawn = sampler(policy, PROMPTS, max_new_tokens=8, temperature=0, group_size=1, seed=0)
    return [one.ids for one in drawn]


def move(policy: Policy, seed: int = 1) -> None:
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight += 0.2 * torch.randn(weight.shape, generator=numbers)


# Where it is, and what it is


def test_nobody_at_home(llama: Policy, tmp_path: Path) -> None:
    remote = Remote(name="sampler server", url="http://127.0.0.1:9", see="log", attempts=2, pause_seconds=0.0)
    with pytest.raises(DependencyDown, match=r"the sampler server at .* did not answer in 2 attempts") as found:
        Server(remote, WEIGHTS, tmp_path).check(llama)
    assert found.value.exit_code == 87


@pytest.mark.parametrize("words", [WORDS[::-1], [*WORDS, "w20"]], ids=["other ids", "larger"])
def test_another_tokenizer_is_refused_before_any_work(
    stub: Stub, llama: Policy, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(PreflowError, match="reads a text as other ids than the policy does"):
        server(stub, tmp_path).check(Policy(llama.model, Chat.from_words(words)))
    assert [path for path, _ in stub.asked] == ["/v1/models", "/tokenize"]


def test_what_it_is_asked(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    sampler = server(stub, tmp_path)
    sampler.check(llama)
    assert stub.version == version_of(llama)  # it has taken the policy in before anything else is done
    drawn = draw(sampler, llama)
    order = ["/v1/models", "/tokenize", "/pause?mode=abort", "/collective_rpc", "/update_weight_version", "/resume"]
    assert [path for path, _ in stub.asked] == [*order, *["/v1/completions", "/weight_info"] * 2]
    first, second = stub.bodies("/v1/completions")
    assert (first["prompt"], second["prompt"]) == tuple(PROMPTS) and first["seed"] != second["seed"]
    assert (first["n"], first["max_tokens"], first["temperature"], first["logprobs"]) == (2, 6, 1.0, 1)
    assert {one.policy_version for one in drawn} == {version_of(llama)} == {stub.version}
    draw(sampler, llama)
    assert len(stub.bodies("/collective_rpc")) == 1  # equal weights are handed over once


def test_only_the_newest_version_stays_on_disk(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    for seed in range(3):
        move(llama, seed)
        draw(server(stub, tmp_path), llama)  # as after a kill: a process that knows of none before
        assert [one.name for one in (tmp_path / "handed_over").iterdir()] == [version_of(llama)]


# Slow, broken


def test_one_that_hangs_counts_as_away(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    stub.faults = lambda number: lambda answer: None
    sampler = server(stub, tmp_path, timeout_seconds=2.0, attempts=2)
    with pytest.raises(DependencyDown, match=r"did not answer in 2 attempts of 2 s each"):
        draw(sampler, llama)
    assert len(stub.bodies("/v1/completions")) == 2


@pytest.mark.parametrize(
    ("fault", "timeout_seconds"), [(500, 60.0), (503, 60.0), (429, 60.0), (None, 5.0), (Cut(b'{"choices": ['), 60.0)]
)
def test_a_passing_fault_is_tried_again(
    stub: Stub, llama: Policy, fault: int | bytes | None, timeout_seconds: float, tmp_path: Path
) -> None:
    stub.faults = lambda number: right if number > 1 else lambda answer: fault
    sampler = server(stub, tmp_path, timeout_seconds=timeout_seconds)
    found = draw(sampler, llama)
    stub.faults = lambda number: right
    assert found == draw(sampler, llama)


def test_a_lasting_fault_is_a_dependency_down(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    stub.faults = lambda number: lambda answer: 500
    with pytest.raises(DependencyDown, match=r"did not answer in 3 attempts of 60 s each \(HTTP 500\)"):
        draw(server(stub, tmp_path), llama)


def test_a_refusal_ends_it_at_once(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    stub.faults = lambda number: lambda answer: 404
    with pytest.raises(PreflowError, match="refused with HTTP 404; see its url, key and log"):
        draw(server(stub, tmp_path), llama)
    assert len(stub.bodies("/v1/completions")) == 1


# Behind


def test_an_old_version_is_handed_over_and_asked_again(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    sampler = server(stub, tmp_path)
    draw(sampler, llama)
    move(llama)
    stub.loads = lambda number: number > 2  # the second time it says yes and loads nothing
    assert greedy(sampler, llama) == greedy(sample, llama)
    assert len(stub.bodies("/collective_rpc")) == 3


def test_one_that_was_started_anew_is_given_the_version_again(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    sampler = server(stub, tmp_path)
    move(llama)
    draw(sampler, llama)
    stub.version, stub.policy = "default", tiny_llama(llama.chat)
    assert greedy(sampler, llama) == greedy(sample, llama)


def test_one_that_stays_behind_is_refused(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    stub.loads = lambda number: False
    told = f"answered with version default of the policy, expected {version_of(llama)}, 3 times"
    with pytest.raises(PreflowError, match=told):
        draw(server(stub, tmp_path), llama)
    assert len(stub.bodies("/v1/completions")) == ATTEMPTS * len(PROMPTS)


def test_one_that_changes_while_it_answers_is_asked_again(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    """Another training loads its weights between the question and the answer."""

    def overtaken(answer: Answer) -> Answer:
        stub.version = "another"
        return answer

    stub.faults = lambda number: overtaken if number == 1 else right
    sampler = server(stub, tmp_path)
    assert draw(sampler, llama) == draw(server(stub, tmp_path), llama)
    assert len(stub.bodies("/collective_rpc")) == 3


# Adapters


LORA = Training(method="lora", rank=3, alpha=6.0)


def adapted(tmp_path: Path) -> Policy:
    policy = trainable(tmp_path / "started_on", LORA, 0, "rl")
    move(policy)
    return policy


@pytest.mark.parametrize("hand_over", [WEIGHTS, ADAPTER], ids=["weights", "adapter"])
def test_a_policy_with_adapters(stub: Stub, hand_over: HandOver, tmp_path: Path) -> None:
    """The stub lays the adapter over its base with PEFT: that it samples alike says that the file holds all of it."""
    policy = adapted(tmp_path)
    sampler, base = server(stub, tmp_path, hand_over), load_policy(tmp_path / "started_on")
    for seed in range(2):
        move(policy, seed)
        assert greedy(sampler, policy) == greedy(sample, policy) != greedy(sample, base)
    assert len(stub.adapters) == (hand_over is ADAPTER)  # the one before was dropped


def test_a_base_in_4_bits_is_not_merged_into(stub: Stub, tmp_path: Path) -> None:
    policy = adapted(tmp_path)
    policy.model.base.origin = replace(policy.model.base.origin, quantised=True)
    with pytest.raises(PreflowError, match=r"4 bits .* set rl\.sampler_server\.hand_over to adapter"):
        draw(server(stub, tmp_path), policy)


def test_only_adapters_are_handed_over_as_such(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match=r"no adapter to hand over: set rl\.sampler_server\.hand_over to weights"):
        draw(server(stub, tmp_path, ADAPTER), llama)


def test_an_adapter_of_another_name_is_an_old_version(stub: Stub, tmp_path: Path) -> None:
    policy = adapted(tmp_path)
    stub.faults = lambda number: right if number > 1 else lambda answer: answer | {"model": "policy-before"}
    sampler = server(stub, tmp_path, ADAPTER)
    assert greedy(sampler, policy) == greedy(sample, policy)
    assert len(stub.bodies("/v1/load_lora_adapter")) == 2
    (about,) = (tmp_path / "handed_over").glob("*/adapter_config.json")
    assert json.loads(about.read_text())["trainable_token_indices"]  # rows of control tokens go with it
