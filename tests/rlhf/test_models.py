"""Policies: files that hold nothing but the model, and log-probabilities against transformers' own logits."""

import json
from pathlib import Path

import pytest
import torch

from rlhf.batching import Batch, collate
from rlhf.chat import Chat
from rlhf.models import (
    Policy,
    adapt_policy,
    extend_embeddings,
    hidden_states,
    load_policy,
    logprobs_and_entropy,
    new_policy,
    save_policy,
    token_logprobs,
)
from rlhf.models import forward as forward_module


def ragged(vocab_size: int, seed: int = 0) -> Batch:
    numbers = torch.Generator().manual_seed(seed)
    sequences = []
    for length in (9, 4, 14, 2):
        ids = torch.randint(vocab_size, (length,), generator=numbers).tolist()
        sequences.append((ids, [False] + (torch.rand(length - 1, generator=numbers) < 0.6).tolist()))
    return collate(sequences, pad_id=0)


def plain_logprobs(policy: Policy, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
    """One unpadded sequence at a time through the whole model: slow, and no mask to get wrong."""
    result = torch.zeros(batch.input_ids.shape)
    for row, length in enumerate(batch.attention_mask.sum(-1).tolist()):
        ids = batch.input_ids[row : row + 1, :length]
        logprobs = (policy.model(input_ids=ids).logits / temperature).log_softmax(-1)
        result[row, 1:length] = logprobs[0, :-1].gather(-1, ids[0, 1:, None]).squeeze(-1)
    return result * batch.loss_mask


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_unpadded_sequences(policy: Policy, temperature: float) -> None:
    batch = ragged(policy.chat.vocab_size)
    expected = plain_logprobs(policy, batch, temperature)
    torch.testing.assert_close(token_logprobs(policy.model, batch, temperature), expected, atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_full_head(policy: Policy) -> None:
    batch = ragged(policy.chat.vocab_size)
    parameters = list(policy.model.parameters())
    weights = torch.randn(batch.input_ids.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad((token_logprobs(policy.model, batch) * weights).sum(), parameters)
    want = torch.autograd.grad((plain_logprobs(policy, batch) * weights).sum(), parameters)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_masked_tokens_do_not_matter(llama: Policy) -> None:
    """Neither the log-probabilities nor the gradient know what the padding is filled with."""
    batch = ragged(llama.chat.vocab_size)
    other = Batch(batch.input_ids.masked_fill(~batch.attention_mask, 7), batch.attention_mask, batch.loss_mask)
    first, second = token_logprobs(llama.model, batch), token_logprobs(llama.model, other)
    assert torch.equal(first, second)
    assert not first[~batch.loss_mask].any()


def test_entropy_by_definition(policy: Policy) -> None:
    batch = ragged(policy.chat.vocab_size)
    logprobs, entropy = logprobs_and_entropy(policy.model, batch, temperature=0.7)
    torch.testing.assert_close(logprobs, token_logprobs(policy.model, batch, 0.7))
    row, token = batch.loss_mask.nonzero()[3].tolist()
    logits = policy.model(input_ids=batch.input_ids[row : row + 1, :token]).logits[0, -1]
    expected = torch.distributions.Categorical(logits=logits / 0.7).entropy()
    torch.testing.assert_close(entropy[row, token], expected, atol=1e-5, rtol=0)
    assert not entropy.requires_grad


def test_slices_of_the_head_change_nothing(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, parameters = ragged(llama.chat.vocab_size), list(llama.model.parameters())

    def run() -> tuple[torch.Tensor, ...]:
        logprobs, entropy = logprobs_and_entropy(llama.model, batch)
        return logprobs, entropy, *torch.autograd.grad(logprobs.sum(), parameters)

    whole = run()
    monkeypatch.setattr(forward_module, "LOGITS_AT_ONCE", 3 * llama.chat.vocab_size)
    for one, other in zip(run(), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_nothing_to_train_is_all_zero(llama: Policy) -> None:
    batch = collate([([2, 3, 6], [False] * 3)], pad_id=0)
    assert token_logprobs(llama.model, batch).tolist() == [[0.0, 0.0, 0.0]]


def test_left_padding_and_zero_temperature_are_refused(llama: Policy) -> None:
    batch = ragged(llama.chat.vocab_size)
    with pytest.raises(ValueError, match="on the right"):
        hidden_states(llama.model, batch.input_ids.flip(1), batch.attention_mask.flip(1))
    with pytest.raises(ValueError, match="temperature is 0"):
        token_logprobs(llama.model, batch, temperature=0.0)


def test_save_load_and_bytes(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "a")
    loaded = load_policy(tmp_path / "a")
    save_policy(loaded, tmp_path / "elsewhere" / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        "chat.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "elsewhere" / "b" / file).read_bytes(), file
        assert str(tmp_path).encode() not in (tmp_path / "a" / file).read_bytes()
    batch = ragged(policy.chat.vocab_size)
    assert torch.equal(token_logprobs(loaded.model, batch), token_logprobs(policy.model, batch))
    assert loaded.model.get_input_embeddings().weight is loaded.model.get_output_embeddings().weight
    assert not loaded.model.training


def test_transformers_reads_the_folder(llama: Policy, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_policy(llama, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[2, 3, 6, 7]])
    torch.testing.assert_close(model(input_ids=ids).logits, llama.model(input_ids=ids).logits)
    assert model.generation_config.eos_token_id == llama.chat.stop_id


def test_new_policies_depend_on_the_seed_alone(chat: Chat) -> None:
    torch.manual_seed(1)
    first = new_policy(chat, 0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    same = new_policy(chat, 0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16)
    other = new_policy(chat, 1, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16)
    assert torch.equal(before, torch.get_rng_state())
    weights = [policy.model.get_input_embeddings().weight for policy in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_code_and_pickles_are_refused(llama: Policy, tmp_path: Path) -> None:
    save_policy(llama, tmp_path)
    edit_config(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    with pytest.raises(ValueError, match="brings code"):
        load_policy(tmp_path)
    save_policy(llama, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(llama.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_policy(tmp_path)


def test_half_precision_is_kept(llama: Policy, tmp_path: Path) -> None:
    llama.model.to(torch.bfloat16)
    save_policy(llama, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = load_policy(tmp_path).model.get_input_embeddings().weight
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded, llama.model.get_input_embeddings().weight)


def test_weights_that_do_not_fit_are_refused(llama: Policy, tmp_path: Path) -> None:
    save_policy(llama, tmp_path)
    edit_config(tmp_path, num_hidden_layers=3)
    with pytest.raises(ValueError, match="missing_keys"):
        load_policy(tmp_path)
    edit_config(tmp_path, num_hidden_layers=1)
    with pytest.raises(ValueError, match="unexpected_keys"):
        load_policy(tmp_path)


def test_logits_changed_after_the_head_are_refused(llama: Policy, tmp_path: Path) -> None:
    save_policy(llama, tmp_path)
    edit_config(tmp_path, final_logit_softcapping=30.0)
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        load_policy(tmp_path)


def test_adapting_a_pretrained_model(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "stories260K"
    policy = adapt_policy(folder, seed=0)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    old = 512
    weight = loaded.model.get_output_embeddings().weight
    assert weight is loaded.model.get_input_embeddings().weight  # still tied
    assert weight.shape[0] == policy.chat.vocab_size == loaded.model.config.vocab_size == old + 5
    new, known = weight[old:], weight[:old]
    assert torch.cdist(new, new).fill_diagonal_(1.0).min() > 0  # no two markers alike
    assert (new - known.mean(0)).norm(dim=-1).max() < (known - known.mean(0)).norm(dim=-1).mean()
    ids = (loaded.model.config.bos_token_id, loaded.model.config.eos_token_id, loaded.model.config.pad_token_id)
    assert ids == (1, policy.chat.stop_id, policy.chat.pad_id)
    again = adapt_policy(folder, seed=0)
    assert torch.equal(again.model.get_input_embeddings().weight, policy.model.get_input_embeddings().weight)


def test_untied_heads_get_rows_of_their_own(chat: Chat) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    head = model.get_output_embeddings().weight.detach().clone()
    extend_embeddings(model, chat)
    assert model.get_output_embeddings().weight.shape[0] == model.config.vocab_size == chat.vocab_size
    assert torch.equal(model.get_output_embeddings().weight[:10], head)
    assert not torch.equal(model.get_output_embeddings().weight[10:], model.get_input_embeddings().weight[10:])
