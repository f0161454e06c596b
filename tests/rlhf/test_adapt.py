"""Checkpoints of every architecture: adapted, saved, read again, sampled from; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.batching import collate
from rlhf.errors import PreflowError
from rlhf.models import Policy, RewardModel, adapt_policy, load_policy, room, save_policy, token_logprobs
from rlhf.sampler import sample
from tests.rlhf.tiny_models import ARCHITECTURES, POSITIONS, WINDOW

TALK = [
    {"role": "user", "content": "Hello, what is it?\n\nPlease say it's 1,234."},
    {"role": "assistant", "content": "Fine. Thank you very much!"},
    {"role": "user", "content": "Why naïve 你好?"},
]


def copy(folder: Path, to: Path, **config: object) -> Path:
    """A copy of a checkpoint, with some of its configuration changed."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    about = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(about | config))
    return to


@pytest.mark.parametrize("template", ["auto", "continue"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_checkpoint_becomes_a_policy(
    name: str, template: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Save and load change nothing; greedy samples are those of transformers; log-probabilities those of sampling."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = adapt_policy(checkpoint(name), 0, template)  # type: ignore[arg-type]
    save_policy(made, tmp_path / "a")
    policy = load_policy(tmp_path / "a")
    save_policy(policy, tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    before, after = made.model.state_dict(), policy.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)

    chat = policy.chat
    prompts = [chat.encode_prompt(TALK)[: room(policy.model) - 16], chat.encode_prompt(TALK[:1])]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert theirs.apply_chat_template(TALK[:1], add_generation_prompt=True, return_dict=False) == prompts[1]
    generate = AutoModelForCausalLM.from_pretrained(tmp_path / "a").eval().generate
    ours = sample(policy, prompts, max_new_tokens=12, temperature=0.0, group_size=1, seed=0)
    for prompt, one in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        expected = generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert one.ids == expected[0, len(prompt) :].tolist()

    drawn = sample(policy, prompts, max_new_tokens=12, temperature=1.0, group_size=2, seed=0)
    batch = collate(
        [
            ([*prompts[one.prompt_index], *one.ids], [False] * len(prompts[one.prompt_index]) + [True] * len(one.ids))
            for one in drawn
        ],
        chat.pad_id,
    )
    logprobs = token_logprobs(policy.model, batch).sum(dim=1)
    assert logprobs.tolist() == pytest.approx([sum(one.logprobs) for one in drawn], abs=1e-4)
    RewardModel(policy, 0)(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.model.get_decoder().parameters())


def test_what_differs_between_the_families(checkpoint: Callable[[str], Path]) -> None:
    policies = {name: adapt_policy(checkpoint(name), 0) for name in ARCHITECTURES}
    assert len(policies) >= 6
    assert {name for name, one in policies.items() if one.chat.bos_id is None} >= {"qwen2", "qwen3", "olmo2"}
    assert all(one.chat.pad_id != one.chat.stop_id for one in policies.values())
    tied = {name for name, one in policies.items() if _tied(one)}
    assert {"gpt2", "qwen2", "gemma3_text"} <= tied and not {"llama", "mistral", "phi3"} & tied
    padded = {name for name, one in policies.items() if _rows(one) > one.chat.vocab_size}
    assert padded == {"gpt_neox", "qwen2", "qwen3"}
    assert {room(policies[name].model) for name in ("mistral", "gemma3_text")} == {WINDOW}
    assert {room(policies[name].model) for name in ("gpt2", "llama", "qwen3")} == {POSITIONS}
    assert len(list(checkpoint("llama").glob("*.safetensors"))) > 1  # shards


def _rows(policy: Policy) -> int:
    return int(policy.model.get_input_embeddings().weight.shape[0])


def _tied(policy: Policy) -> bool:
    return policy.model.get_input_embeddings().weight is policy.model.get_output_embeddings().weight


def test_rows_of_a_padded_vocabulary_that_get_a_token_are_made_anew(checkpoint: Callable[[str], Path]) -> None:
    """They were never trained: whatever lay there would be the first meaning of a marker."""
    from transformers import AutoModelForCausalLM

    policy = adapt_policy(checkpoint("gpt_neox"), 0)
    old = AutoModelForCausalLM.from_pretrained(checkpoint("gpt_neox"))
    known = policy.chat.vocab_size - 5  # pad, stop and three roles are new
    for matrix in ("get_input_embeddings", "get_output_embeddings"):
        now, before = getattr(policy.model, matrix)().weight, getattr(old, matrix)().weight
        assert now.shape == before.shape
        assert torch.equal(now[:known], before[:known])
        assert not torch.isclose(now[known : known + 5], before[known : known + 5]).any(dim=1).all()
        assert torch.equal(now[known + 5 :], before[known + 5 :])


def test_a_prompt_past_the_window_is_refused_and_told_why(checkpoint: Callable[[str], Path]) -> None:
    policy = adapt_policy(checkpoint("mistral"), 0)
    with pytest.raises(ValueError, match=r"room for 1 to 88 \(128 positions and attention that looks back 96 tokens\)"):
        sample(policy, [[5] * 89], max_new_tokens=8, temperature=0.0, group_size=1, seed=0)


def test_dropout_is_switched_off(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(checkpoint("gpt2"), tmp_path / "dropping", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    policy = adapt_policy(folder, 0)
    ids = torch.arange(20)[None]
    policy.model.train()
    assert torch.equal(policy.model(ids).logits, policy.model(ids).logits)


def test_pickles_are_refused_with_the_way_to_convert_them(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(checkpoint("gpt2"), tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    for found, said in (("pytorch_model.bin", r"only pytorch_model\.bin, a pickle"), (None, "no weights")):
        if found:
            torch.save({}, folder / found)
        with pytest.raises(PreflowError, match=rf"pickled holds {said}.*expected safetensors.*save_pretrained"):
            adapt_policy(folder, 0)
        (folder / "pytorch_model.bin").unlink(missing_ok=True)


REFUSED = {
    "softcap": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "another size": ({"hidden_size": 64}, "do not fit its config.*mismatched_keys"),
    "more layers": ({"num_hidden_layers": 3}, "missing_keys"),
    "unknown": ({"model_type": "nothing_of_that_name"}, "nothing_of_that_name"),
    "small vocabulary": ({"vocab_size": 300}, "mismatched_keys"),
    "an encoder": ({"model_type": "bert"}, "cannot be used"),
    "no positions": ({"model_type": "bloom", "max_position_embeddings": None}, "names no max_position_embeddings"),
    "more than text": ({"model_type": "gemma3"}, "reads more than text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_used_is_refused_in_a_sentence(
    name: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(PreflowError, match=reason) as refused:
        adapt_policy(copy(checkpoint("llama"), tmp_path / "model", **config), 0)
    assert "\n" not in str(refused.value)


def test_logits_that_the_head_does_not_give_are_found_whatever_they_are_called(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = coded(checkpoint("llama"), tmp_path / "scaled", "logits * 0.5")
    with pytest.raises(PreflowError, match="changes its logits after the LM head"):
        adapt_policy(folder, 0, trusted=True)


CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
pathlib.Path(__file__).with_name("ran").touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        logits = output.logits
        output.logits = {logits}
        return output
"""


def coded(folder: Path, to: Path, logits: str = "logits") -> Path:
    """A checkpoint that brings its own code."""
    places = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    copy(folder, to, auto_map=places, model_type="own", architectures=["OwnModel"])
    (to / "own_code.py").write_text(CODE.format(logits=logits))
    return to


@pytest.mark.faults(
    50,
    injected="a model with `auto_map` code of its own, untrusted, then changed after it was trusted",
    happens="refused both times",
)
def test_code_runs_only_where_it_was_trusted_and_only_that_code(
    checkpoint: Callable[[str], Path], tmp_path: Path, modules: Path
) -> None:
    folder = coded(checkpoint("llama"), tmp_path / "bringing")
    with pytest.raises(PreflowError, match=r"auto_map: the model brings code.*base\.trust_remote_code=true"):
        adapt_policy(folder, 0)
    assert not list(tmp_path.rglob("ran"))

    policy = adapt_policy(folder, 0, trusted=True)
    assert list(modules.rglob("ran"))
    save_policy(policy, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    save_policy(loaded, tmp_path / "next")
    assert type(load_policy(tmp_path / "next").model).__name__ == "OwnModel"
    (tmp_path / "next" / "own_code.py").write_text(CODE.format(logits="logits + 1"))
    with pytest.raises(ValueError, match=r"other code than was trusted: own_code\.py changed"):
        load_policy(tmp_path / "next")


def test_code_of_another_repository_is_never_run(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(checkpoint("llama"), tmp_path / "afar", auto_map={"AutoModelForCausalLM": "they/theirs--code.Model"})
    with pytest.raises(PreflowError, match="of another repository"):
        adapt_policy(folder, 0, trusted=True)


def test_a_folder_without_a_tokenizer_of_the_fast_kind(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(checkpoint("llama"), tmp_path / "slow")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(PreflowError, match=r"slow has no tokenizer\.json: write one"):
        adapt_policy(folder, 0)
    with pytest.raises(PreflowError, match=r"holds no model \(config\.json"):
        adapt_policy(tmp_path / "nothing", 0)
