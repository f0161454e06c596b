"""Policies on disk: a model folder that transformers reads too, written as the same bytes every time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf import distributed
from rlhf.bits import bitsandbytes
from rlhf.chat import Chat
from rlhf.models.adapted import Adapted
from rlhf.models.adapter_files import STACK, origin_of, read_adapters, weights_file, write_adapters
from rlhf.models.adapters import Base, Origin
from rlhf.models.fused import fuse_norms
from rlhf.models.pretrained import load_model, use_chat_ids
from rlhf.models.remote_code import save_code
from rlhf.records import write_json
from rlhf.seeding import derive
from rlhf.sharding import tensors_of
from rlhf.spending import spent

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Policy:
    """A causal language model and the chat it speaks."""

    model: Any
    """A model of transformers, or one with adapters (`rlhf.models.adapted.Adapted`)."""
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
    use_chat_ids(model, chat)
    fuse_norms(model)
    return Policy(model.eval(), chat)


def load_policy(folder: Path, over: Policy | None = None) -> Policy:
    """Read a policy folder, plain or with adapters: safetensors only, and no code but what was trusted at stage base.

    The model goes to the GPU where there is one, in the precision it was saved in. `over` is a policy with adapters:
    its base is used for those of the folder where it is the same, so that what they share is in memory once.

    Raises ValueError where weights do not fit, where the folder brings other code, or where it has no chat.json.
    """
    chat = Chat.load(folder)
    if not (folder / STACK).is_file():
        saved_as = json.loads((folder / "config.json").read_text("utf-8")).get("dtype")
        if saved_as not in DTYPES:
            raise ValueError(f"{folder.name}/config.json has dtype {saved_as!r}, expected one of {', '.join(DTYPES)}")
        return Policy(load_model(folder, getattr(torch, saved_as)).to(device()), chat)
    origin = origin_of(folder)
    shared = over.model.base if over is not None and isinstance(over.model, Adapted) else None
    base: Base = shared if shared is not None and shared.origin.same_base(origin) else load_base(origin)
    return Policy(base.view(read_adapters(folder, base)), chat)


def load_base(origin: Origin) -> Base:
    """The frozen model that adapters lie on, kept in memory as `origin` says."""
    dtype = getattr(torch, origin.dtype)
    how: dict[str, Any] = {"variant": "base"} if weights_file(origin.folder).name != "model.safetensors" else {}
    if not origin.quantised:
        return Base(load_model(origin.folder, dtype, **how).to(device()), origin)
    from transformers import BitsAndBytesConfig

    linear4bit = bitsandbytes().nn.Linear4bit
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = load_model(origin.folder, dtype, quantization_config=nf4, device_map={"": device()}, **how)
    for part in model.modules():
        if isinstance(part, linear4bit):
            # On some CPUs weights would be packed anew for inference, and sampler and trainer compute differently.
            part.support_avx512bf16_for_cpu = False
    return Base(model, origin)


def device() -> torch.device:
    """Where models go: the GPU where there is one; of several processes each has its own."""
    return distributed.own_device()


@spent("save")
def save_policy(policy: Policy, folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors and the chat's files.

    Equal policies are equal bytes: no path, time or host is written, tied weights once. With adapters, the base's files
    and the adapters take the place of the weights (`rlhf.models.adapter_files`). Of several processes that train
    together only the first one writes.
    """
    if distributed.group().rank > 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    policy.chat.save(folder)
    if isinstance(policy.model, Adapted):
        write_adapters(folder, policy.model.base.origin, policy.model.adapters)
        save_code(policy.model.base.model, folder)
        return
    save_code(policy.model, folder)
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


def _tensors_once(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with tied parameters under their first name only."""
    first_names = {name for name, _ in model.named_parameters()}
    all_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in tensors_of(model).items()
        if name in first_names or name not in all_names
    }
