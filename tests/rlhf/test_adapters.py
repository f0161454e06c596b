"""Adapters on a shared base: what they compute, that views leave each other alone, and what comes back from disk."""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from rlhf.batching import Batch, collate
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.models import (
    Policy,
    RewardModel,
    ValueModel,
    load_policy,
    load_reference,
    merged,
    save_policy,
    token_logprobs,
    trainable,
)
from rlhf.models.ensembles import RewardEnsemble, load_reward_model
from rlhf.models.token_rewards import TokenRewardModel
from rlhf.sampler import sample
from tasks.config.training import Training
from tests.rlhf.conftest import tiny_gpt2, tiny_llama

LORA = Training(method="lora", rank=3, alpha=6.0)
QLORA = Training(method="qlora", rank=3, alpha=6.0)
MAKERS: dict[str, Callable[[Chat], Policy]] = {"llama": tiny_llama, "gpt2": tiny_gpt2}


@pytest.fixture
def base(chat: Chat, tmp_path: Path) -> Path:
    save_policy(tiny_llama(chat), tmp_path / "base")
    return tmp_path / "base"


def batch_of(chat: Chat, seed: int = 0) -> Batch:
    """Every token of the vocabulary, control tokens too."""
    ids = torch.randperm(chat.vocab_size, generator=torch.Generator().manual_seed(seed)).tolist()
    return collate([(row, [False, *[True] * (len(row) - 1)]) for row in (ids[:11], ids[11:])], chat.pad_id)


def logprobs_of(policy: Policy) -> Tensor:
    return token_logprobs(policy.model, batch_of(policy.chat))


def learn(policy: Policy, seed: int = 0) -> Policy:
    """Weights that are anything but those an adapter starts with."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=numbers)
    return policy


def gradients(policy: Policy, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(policy.model.parameters())))


def by_hand(policy: Policy, plain: Policy) -> Policy:
    """W + (α/r) B A in the weights of `plain`, and the newest rows; no line of the library or of PEFT."""
    weights = dict(plain.model.named_parameters())
    with torch.no_grad():
        for adapter in policy.model.adapters:
            for name, down in adapter.weights.items():
                if name.endswith("lora_A.weight"):
                    path = name.removesuffix(".lora_A.weight")
                    update = 6.0 / 3 * adapter.weights[f"{path}.lora_B.weight"] @ down
                    sideways = isinstance(plain.model.get_submodule(path), Conv1D)  # GPT-2 keeps Wᵀ
                    weights[f"{path}.weight"] += update.T if sideways else update
            for path, rows in adapter.rows.items():
                weights[f"{path}.weight"][list(adapter.shape.tokens)] = rows
    return plain


@pytest.mark.parametrize("architecture", MAKERS)
def test_a_stack_is_its_closed_form_in_memory_merged_and_by_hand(architecture: str, chat: Chat, tmp_path: Path) -> None:
    save_policy(MAKERS[architecture](chat), tmp_path / "base")
    sft = learn(trainable(tmp_path / "base", LORA, 0, "sft"), 1)
    save_policy(sft, tmp_path / "sft")
    rl = learn(trainable(tmp_path / "sft", LORA, 0, "rl"), 2)
    save_policy(rl, tmp_path / "rl")
    want = logprobs_of(by_hand(rl, load_policy(tmp_path / "base")))
    assert not torch.allclose(want, logprobs_of(load_policy(tmp_path / "base")), atol=0.1)
    torch.testing.assert_close(logprobs_of(rl), want, atol=1e-4, rtol=0)
    whole = merged(load_policy(tmp_path / "rl"))
    torch.testing.assert_close(logprobs_of(whole), want, atol=1e-4, rtol=0)
    save_policy(whole, tmp_path / "whole")
    assert type(load_policy(tmp_path / "whole").model) is type(load_policy(tmp_path / "base").model)
    assert all(weight.requires_grad for weight in whole.model.parameters())


def test_a_new_adapter_changes_nothing_and_is_drawn_from_seed_and_label(base: Path) -> None:
    one, again, other, another = (
        trainable(base, LORA, seed, label) for seed, label in ((0, "sft"), (0, "sft"), (1, "sft"), (0, "rl"))
    )
    torch.testing.assert_close(logprobs_of(one), logprobs_of(load_policy(base)), atol=1e-5, rtol=0)
    drawn = [torch.cat([weight.flatten() for weight in policy.model.parameters()]) for policy in (one, again)]
    assert torch.equal(*drawn)
    for different in (other, another):
        weights = torch.cat([weight.flatten() for weight in different.model.parameters()])
        assert not torch.equal(drawn[0], weights)


@pytest.mark.parametrize("training", [LORA, QLORA], ids=["lora", "qlora"])
def test_the_reference_is_the_newest_adapter_off(training: Training, base: Path, tmp_path: Path) -> None:
    start = learn(trainable(base, training, 0, "sft"))
    save_policy(start, tmp_path / "sft")
    before = logprobs_of(start)
    learner = trainable(tmp_path / "sft", training, 0, "rl", start)
    reference = load_reference(tmp_path / "sft", learner)
    assert learner.model.base is reference.model.base is start.model.base  # in memory once
    learn(learner, 3)
    assert not torch.allclose(logprobs_of(learner), before, atol=0.1)
    assert torch.equal(logprobs_of(reference), before)
    # A folder without adapters is the base alone, kept as the learner keeps it.
    assert load_reference(base, learner).model.base is learner.model.base


def test_everything_trained_has_a_gradient_and_nothing_else_has_one(base: Path) -> None:
    policy = learn(trainable(base, LORA, 0, "sft"))
    (-logprobs_of(policy).sum()).backward()
    named = dict(policy.model.named_parameters())
    assert all(weight.grad is not None and weight.grad.any() for weight in named.values())
    assert {name.split("/")[-2] for name in named} == {"lora_A", "lora_B", "token_adapter"}
    assert all(weight.grad is None for name, weight in policy.model.base.model.named_parameters() if "lora" not in name)
    rows = next(weight for name, weight in named.items() if "token_adapter" in name)
    assert rows.shape[0] == len(policy.chat.control_ids - {policy.chat.pad_id})


@pytest.mark.parametrize("recomputed", [False, True])
def test_views_leave_each_other_alone(recomputed: bool, base: Path, tmp_path: Path) -> None:
    """Policy, critic and reward model take turns between a forward pass and its backward pass."""
    settings = LORA.model_copy(update={"gradient_checkpointing": recomputed})
    policy = learn(trainable(base, LORA, 0, "rl"))
    alone = gradients(policy, logprobs_of(policy).sum())
    policy = learn(trainable(base, settings, 0, "rl"))
    critic = ValueModel(learn(trainable(base, settings, 0, "value", policy), 5).model)
    torch.nn.init.ones_(critic.head.weight)
    reward_model = RewardModel(learn(trainable(base, settings, 0, "policy_rm", policy), 6), seed=0)
    batch = batch_of(policy.chat)
    logprobs = logprobs_of(policy)
    values, scores = critic(batch), reward_model(batch)
    critic_gradients = torch.autograd.grad(values.sum(), list(critic.parameters()))
    scores.sum().backward()
    together = gradients(policy, logprobs.sum())
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    fresh = ValueModel(learn(trainable(base, LORA, 0, "value"), 5).model)
    torch.nn.init.ones_(fresh.head.weight)
    for one, other in zip(
        torch.autograd.grad(fresh(batch).sum(), list(fresh.parameters())), critic_gradients, strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_blocks_are_computed_again_in_the_backward_pass(method: Any, base: Path) -> None:
    kept = trainable(base, Training(method=method), 0, "sft")
    again = trainable(base, Training(method=method, gradient_checkpointing=True), 0, "sft")
    model = again.model if method == "full" else again.model.base.model
    passes = []
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    found = gradients(again, logprobs_of(again).sum())
    assert passes.count(True) == 2
    for one, other in zip(gradients(kept, logprobs_of(kept).sum()), found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_dropout_is_of_the_trained_adapter_where_there_is_a_gradient(base: Path) -> None:
    policy = learn(trainable(base, LORA.model_copy(update={"dropout": 0.5}), 0, "sft"))
    with torch.no_grad():
        one, other = logprobs_of(policy), logprobs_of(policy)
    assert torch.equal(one, other)
    assert not torch.equal(logprobs_of(policy), logprobs_of(policy))
    view = Policy(policy.model.base.view(policy.model.adapters), policy.chat)
    assert torch.equal(logprobs_of(view), one)


@pytest.mark.parametrize("training", [LORA, QLORA], ids=["lora", "qlora"])
def test_what_is_saved_is_what_was_in_memory(training: Training, base: Path, tmp_path: Path) -> None:
    policy = learn(trainable(base, training, 0, "sft"))
    save_policy(policy, tmp_path / "sft")
    loaded = load_policy(tmp_path / "sft")
    assert torch.equal(logprobs_of(loaded), logprobs_of(policy))
    drawn = [
        sample(one, [[1, 2, 3], [4, 5]], max_new_tokens=6, temperature=1.0, group_size=2, seed=0)
        for one in (policy, loaded)
    ]
    assert drawn[0] == drawn[1]
    save_policy(loaded, tmp_path / "again")
    files = [
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "sft", tmp_path / "again")
    ]
    assert files[0] == files[1]
    assert files[0]["model.base.safetensors"] == (base / "model.safetensors").read_bytes()
    assert files[0]["config.json"] == (base / "config.json").read_bytes()


def test_the_base_cannot_be_taken_for_the_policy(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_policy(learn(trainable(base, LORA, 0, "sft")), tmp_path / "sft")
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "sft")


@pytest.mark.parametrize("tied", [True, False])
def test_peft_reads_an_adapter_as_we_do(tied: bool, chat: Chat, tmp_path: Path) -> None:
    from peft import PeftModel

    policy = tiny_llama(chat)
    if not tied:
        policy.model.config.tie_word_embeddings = False
        policy.model.lm_head.weight = torch.nn.Parameter(policy.model.lm_head.weight.detach().flip(0).clone())
    save_policy(policy, tmp_path / "base")
    ours = learn(trainable(tmp_path / "base", LORA, 0, "sft"))
    assert len(ours.model.adapters[0].rows) == (1 if tied else 2)
    save_policy(ours, tmp_path / "sft")
    theirs = PeftModel.from_pretrained(load_policy(tmp_path / "base").model, tmp_path / "sft/adapters/1-sft").eval()
    ids = torch.arange(chat.vocab_size)[None]
    with torch.no_grad():
        logits = theirs(input_ids=ids).logits[0]
        want = logits[:-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
        got = token_logprobs(
            ours.model, collate([(ids[0].tolist(), [False, *[True] * (ids.shape[1] - 1)])], chat.pad_id)
        )
    torch.testing.assert_close(got[0, 1:], want, atol=1e-5, rtol=0)


def test_four_bits_stay_four_bits_and_merging_takes_the_original_weights(base: Path, tmp_path: Path) -> None:
    policy = learn(trainable(base, QLORA, 0, "sft"))
    save_policy(policy, tmp_path / "sft")
    kept = policy.model.base.model.model.layers[0].mlp.up_proj.base_layer.weight
    assert (kept.dtype, kept.quant_state.quant_type, kept.quant_state.nested) == (torch.uint8, "nf4", True)
    torch.testing.assert_close(
        logprobs_of(merged(policy)), logprobs_of(by_hand(policy, load_policy(base))), atol=1e-4, rtol=0
    )
    with pytest.raises(ValueError, match="nothing is merged into 4 bits"):
        policy.model.base.merged(policy.model.adapters)


def test_adapters_go_with_the_last_view_of_them(base: Path, tmp_path: Path) -> None:
    first = learn(trainable(base, LORA, 0, "sft"))
    save_policy(first, tmp_path / "sft")
    again, twice = (load_policy(tmp_path / "sft", first) for _ in range(2))
    want, shared = logprobs_of(first), first.model.base
    assert again.model.adapters == twice.model.adapters
    assert len(shared.adapters) == 2  # as it was trained, and as it was read
    del again
    gc.collect()
    assert len(shared.adapters) == 2
    del twice
    gc.collect()
    assert list(shared.adapters) == ["sft_1"]
    assert torch.equal(logprobs_of(first), want)
    assert torch.equal(logprobs_of(load_policy(tmp_path / "sft", first)), want)


def test_heads_are_saved_with_adapters(base: Path, tmp_path: Path) -> None:
    models = [RewardModel(learn(trainable(base, LORA, 0, name), seed), seed) for seed, name in enumerate(("a", "b"))]
    batch = batch_of(models[0].chat)
    with torch.no_grad():
        models[0].head.weight += 1.0
        scores = models[0](batch)
        models[0].save(tmp_path / "single")
        assert torch.equal(load_reward_model(tmp_path / "single")(batch), scores)
        both = RewardEnsemble(models, "mean")
        both.save(tmp_path / "both")
        loaded = load_reward_model(tmp_path / "both")
        assert torch.equal(loaded(batch), both(batch))
        assert loaded.members[0].model.base is loaded.members[1].model.base  # type: ignore[union-attr]
        outcome = TokenRewardModel(learn(trainable(base, LORA, 0, "c")), seed=0)
        outcome.save(tmp_path / "outcome")
        assert torch.equal(TokenRewardModel.load(tmp_path / "outcome")(batch), outcome(batch))
    assert {name.split(".")[0] for name in models[0].state_dict() if not name.startswith("model.")} == {
        "head", "token_head", "mean", "std",
    }  # fmt: skip


def test_what_does_not_fit_is_refused(base: Path, chat: Chat, tmp_path: Path) -> None:
    save_policy(learn(trainable(base, LORA, 0, "sft")), tmp_path / "sft")
    with pytest.raises(PreflowError, match=r"trained with lora and float32, training\.method is qlora"):
        trainable(tmp_path / "sft", QLORA, 0, "rl")
    with pytest.raises(PreflowError, match=r"training\.targets names wq, .* down_proj, gate_proj"):
        trainable(base, LORA.model_copy(update={"targets": ("wq",)}), 0, "sft")
    stack = tmp_path / "sft/adapters.json"
    named = stack.read_text()
    for outside in ("../../other/adapters/1-sft", "/adapters/1-sft", ".."):
        stack.write_text(json.dumps(json.loads(named) | {"adapters": [outside]}))
        with pytest.raises(ValueError, match=r"expected adapters within sft/adapters"):
            load_policy(tmp_path / "sft")
    stack.write_text(named)
    config = tmp_path / "sft/adapters/1-sft/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 5}))
    with pytest.raises(ValueError, match="does not fit the model"):
        load_policy(tmp_path / "sft")
    weights = tmp_path / "sft/model.base.safetensors"
    weights.unlink()  # a link to those of the base
    save_policy(tiny_gpt2(chat), tmp_path / "other")
    weights.write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    with pytest.raises(PreflowError, match="its adapters were trained on"):
        load_policy(tmp_path / "sft")


def test_full_training_of_an_adapted_policy_starts_from_the_merged_weights(base: Path, tmp_path: Path) -> None:
    adapted = learn(trainable(base, LORA, 0, "sft"))
    save_policy(adapted, tmp_path / "sft")
    whole = trainable(tmp_path / "sft", Training(), 0, "rl")
    torch.testing.assert_close(logprobs_of(whole), logprobs_of(adapted), atol=1e-5, rtol=0)
    assert all(weight.requires_grad for weight in whole.model.parameters())


def test_an_adapter_of_other_tokens_is_refused_since_rows_below_would_be_lost(base: Path) -> None:
    below = trainable(base, LORA, 0, "sft").model
    shape = below.adapters[-1].shape
    with pytest.raises(ValueError, match=rf"0 tokens on one of {len(shape.tokens)}"):
        below.base.add("rl", replace(shape, tokens=()), below.adapters)


@pytest.mark.parametrize("start", [None, LORA], ids=["plain", "adapters"])
def test_a_learner_in_bfloat16_starts_at_its_reference(start: Training | None, base: Path, tmp_path: Path) -> None:
    if start:
        save_policy(learn(trainable(base, start, 0, "sft")), base := tmp_path / "sft")
    learner = trainable(base, Training(method="full", dtype="bfloat16"), 0, "rl")
    assert learner.model.dtype == torch.bfloat16
    assert torch.equal(logprobs_of(load_reference(base, learner)), logprobs_of(learner))
