"""Policies on disk: a model folder that transformers reads too, written as the same bytes every time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf.chat import Chat
from rlhf.records import write_json
from rlhf.seeding import derive, generator

HEAD_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of models that change logits after the LM head, which `token_logprobs` would miss."""


@dataclass(frozen=True)
class Policy:
    """A causal language model of transformers and the chat it speaks."""

    model: Any
    chat: Chat


def new_policy(
    chat: Chat,
    seed: int,
    *,
    hidden_size: int = 128,
    num_layers: int = 2,
    num_heads: int = 4,
    intermediate_size: int = 512,
    max_tokens: int = 256,
    rope_theta: float = 1000.0,
    init_std: float = 0.05,
) -> Policy:
    """A small Llama with tied embeddings and random weights drawn from `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=chat.vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        initializer_range=init_std,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        model: Any = LlamaForCausalLM(config)
    _use_chat_ids(model, chat)
    return Policy(model.eval(), chat)


def load_policy(folder: Path) -> Policy:
    """Read a policy folder: safetensors only, and never code of the folder's own.

    Raises ValueError where weights lack or do not fit, where the folder brings code, or where it has no chat.json.
    """
    chat = Chat.load(folder)
    return Policy(_load_model(folder), chat)


def adapt_policy(folder: Path, seed: int) -> Policy:
    """Make a policy of a pretrained model without chat tokens: markers are added, the embeddings extended for them."""
    chat, model = Chat.adapt(folder), _load_model(folder)
    extend_embeddings(model, chat, seed)
    return Policy(model, chat)


def save_policy(policy: Policy, folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors and the chat's files.

    Equal policies are equal bytes: no path, time or host is written, tied weights once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    policy.chat.save(folder)
    config = json.loads(policy.model.config.to_json_string(use_diff=True))
    config.pop("_name_or_path", None)
    config["dtype"] = str(policy.model.dtype).removeprefix("torch.")
    write_json(folder / "config.json", config)
    ids = {
        "bos_token_id": policy.chat.bos_id,
        "eos_token_id": policy.chat.stop_id,
        "pad_token_id": policy.chat.pad_id,
    }
    write_json(folder / "generation_config.json", ids)
    save_file(_tensors_once(policy.model), folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def extend_embeddings(model: Any, chat: Chat, seed: int = 0) -> None:
    """Give the model a row for every id of the chat, and the chat's bos, stop and pad ids.

    A new row is the mean of the old ones plus noise of a tenth of their spread, drawn from `seed`: like any other
    token at first, yet no two alike. Tied input and output embeddings stay tied.
    """
    old = model.get_input_embeddings().weight.shape[0]
    if chat.vocab_size > old:
        model.resize_token_embeddings(chat.vocab_size, mean_resizing=False)
        matrices = {id(matrix.weight): matrix.weight for matrix in _embeddings(model)}
        for number, weight in enumerate(matrices.values()):
            noise = torch.randn(weight[old:].shape, generator=generator(seed, "embeddings", number))
            known = weight[:old].float()
            rows = known.mean(0) + 0.1 * known.std(0) * noise.to(weight.device)
            weight[old:] = rows.to(weight.dtype)
    _use_chat_ids(model, chat)


def _embeddings(model: Any) -> Sequence[nn.Module]:
    return [model.get_input_embeddings(), model.get_output_embeddings()]


def _use_chat_ids(model: Any, chat: Chat) -> None:
    model.config.bos_token_id = chat.bos_id
    model.config.eos_token_id = chat.stop_id
    model.config.pad_token_id = chat.pad_id
    model.generation_config.bos_token_id = chat.bos_id
    model.generation_config.eos_token_id = chat.stop_id
    model.generation_config.pad_token_id = chat.pad_id
    model.get_input_embeddings().padding_idx = chat.pad_id


def _load_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one a model would fill the logs of a stage
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if "auto_map" in config:
        raise ValueError(f"{folder.name}/config.json has auto_map: the model brings code, which is never run here")
    if changed := [name for name in HEAD_TRANSFORMS if config.get(name)]:
        raise ValueError(f"{folder.name}/config.json has {changed}: such logits are not supported")
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation="sdpa",
        dtype=torch.float32,  # what optimisers need, whatever the weights were saved in
        output_loading_info=True,
    )
    if wrong := {kind: sorted(map(str, names)) for kind, names in info.items() if names}:
        raise ValueError(f"weights of {folder.name} do not fit its config.json: {wrong}")
    return model.eval()


def _tensors_once(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with tied parameters under their first name only."""
    first_names = {name for name, _ in model.named_parameters()}
    all_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name in first_names or name not in all_names
    }
