"""Checkpoints from elsewhere that lie about themselves, or came over damaged: nothing of theirs runs, one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.errors import PreflowError
from rlhf.models import adapt_policy, save_policy
from tests.rlhf.test_adapt import coded, copy


@pytest.mark.faults(
    50, injected="a model's folder that says itself that its code is trusted", happens="refused; the code did not run"
)
def test_a_folder_that_says_itself_that_its_code_is_trusted(
    checkpoint: Callable[[str], Path], tmp_path: Path, modules: Path
) -> None:
    """trusted_code.json is a stage's word about its own output, and means nothing in a folder from elsewhere."""
    save_policy(adapt_policy(coded(checkpoint("llama"), tmp_path / "honest"), 0, trusted=True), tmp_path / "policy")
    for ran in modules.rglob("ran"):
        ran.unlink()
    assert (tmp_path / "policy/trusted_code.json").is_file()
    with pytest.raises(PreflowError, match=r"base\.trust_remote_code=true"):
        adapt_policy(tmp_path / "policy", 0)
    assert not list(modules.rglob("ran"))


@pytest.mark.parametrize("place", ["deeper/own_code.OwnModel", "/tmp/own_code.OwnModel", "../own_code.OwnModel"])
def test_code_that_lies_elsewhere_is_never_run(place: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Only what lies beside config.json travels with a policy and is compared."""
    folder = copy(checkpoint("llama"), tmp_path / "afar", auto_map={"AutoModelForCausalLM": place})
    with pytest.raises(PreflowError, match="another repository or folder"):
        adapt_policy(folder, 0, trusted=True)


def test_an_adapter_in_the_folder_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """transformers would read the model that the adapter names, which may be any other."""
    folder = copy(checkpoint("llama"), tmp_path / "adapted")
    about = {"peft_type": "LORA", "base_model_name_or_path": str(checkpoint("qwen2"))}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(PreflowError, match=r"has an adapter_config\.json, expected a whole model"):
        adapt_policy(folder, 0)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_pointers_of_git_lfs_are_one_sentence(name: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(checkpoint("gpt2"), tmp_path / "pointers")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(PreflowError, match=r"git lfs pull|cannot be read .* fetch them again") as refused:
        adapt_policy(folder, 0)
    assert "\n" not in str(refused.value)


def test_a_pad_that_its_tokenizer_does_not_call_special(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(checkpoint("olmo2"), tmp_path / "plain")
    about = json.loads((folder / "tokenizer.json").read_text())
    for token in about["added_tokens"]:
        token["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(about))
    chat = adapt_policy(folder, 0, "continue").chat
    assert (chat.template.pad, chat.template.stop) == ("<|padding|>", "<|endoftext|>")
    assert chat.control_ids >= {chat.pad_id, chat.stop_id}
