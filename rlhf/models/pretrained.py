"""Pretrained causal language models: loaded from safetensors alone, with room made for a chat's tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from rlhf.chat import Chat
from rlhf.models.fused import fuse_norms
from rlhf.models.remote_code import read_code, refusal
from rlhf.seeding import generator

HEAD_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of models that change logits after the LM head, which `token_logprobs` would miss."""


@torch.no_grad()
def extend_embeddings(model: Any, chat: Chat, seed: int = 0, first_new: int | None = None) -> None:
    """Give the model a row for every id of the chat, and the chat's bos, stop and pad ids.

    New rows are those past the end of the embedding and, where it is longer than the tokenizer was (a padded
    vocabulary), from `first_new` on: nobody trained them. Each is the mean of the old ones plus noise of a tenth of
    their spread, drawn from `seed`: like any other token at first, yet no two alike. Tied input and output embeddings
    stay tied.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    old = rows if first_new is None else min(rows, first_new)
    if chat.vocab_size > rows:
        model.resize_token_embeddings(chat.vocab_size, mean_resizing=False)
    if chat.vocab_size > old:
        matrices = {id(matrix.weight): matrix.weight for matrix in _embeddings(model)}
        for number, weight in enumerate(matrices.values()):
            new = weight[old : chat.vocab_size]
            noise = torch.randn(new.shape, generator=generator(seed, "embeddings", number))
            known = weight[:old].float()
            new.copy_(known.mean(0) + 0.1 * known.std(0) * noise.to(weight.device))
    use_chat_ids(model, chat)


def _embeddings(model: Any) -> Sequence[nn.Module]:
    return [model.get_input_embeddings(), model.get_output_embeddings()]


def use_chat_ids(model: Any, chat: Chat) -> None:
    """Tell the model the chat's bos, stop and pad ids; bos is None where the chat has none."""
    model.config.bos_token_id = chat.bos_id
    model.config.eos_token_id = chat.stop_id
    model.config.pad_token_id = chat.pad_id
    model.generation_config.bos_token_id = chat.bos_id
    model.generation_config.eos_token_id = chat.stop_id
    model.generation_config.pad_token_id = chat.pad_id
    model.get_input_embeddings().padding_idx = chat.pad_id


def room(model: Any) -> int:
    """The longest sequence that every layer sees whole: its positions, or its sliding window where that is shorter."""
    return room_of(model.config)


def room_of(config: Any) -> int:
    """`room` of a model by its configuration alone."""
    positions: int = config.max_position_embeddings
    window = sliding_window(config)
    return positions if window is None else min(positions, window)


def room_in(folder: Path) -> int:
    """`room` of the model in a folder, which is not loaded; 0 where its config.json does not say."""
    from transformers import AutoConfig, PretrainedConfig

    if not (folder / "config.json").is_file():
        return 0
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # Code of a model's own never runs here; its configuration is read as it is written.
    known = "auto_map" not in values and "model_type" in values
    config = AutoConfig.from_pretrained(folder, local_files_only=True) if known else PretrainedConfig(**values)
    return room_of(config) if isinstance(getattr(config, "max_position_embeddings", None), int) else 0


def sliding_window(config: Any) -> int | None:
    """How many tokens back some layer looks at most, None where all look back to the start."""
    window: int | None = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    return window if layers is None or "sliding_attention" in layers else None


def limits(model: Any) -> str:
    """What `room` comes from, for messages."""
    window = sliding_window(model.config)
    positions = f"{model.config.max_position_embeddings} positions"
    return positions if window is None else f"{positions} and attention that looks back {window} tokens"


def linear_names(model: nn.Module, head: nn.Module) -> tuple[str, ...]:
    """Last names of all linear layers but the LM head: those that may have adapters."""
    from transformers.pytorch_utils import Conv1D

    linear = [path for path, part in model.named_modules() if isinstance(part, nn.Linear | Conv1D) and part is not head]
    return tuple(sorted({path.rpartition(".")[2] for path in linear}))


def load_model(folder: Path, dtype: torch.dtype = torch.float32, *, trusted: bool | None = None, **how: Any) -> Any:
    """The model of a folder; float32 is what optimisers need, whatever the weights were saved in.

    Dropout is switched off: a policy that drops parts of itself is another one than was sampled from. Code of the
    folder's own runs where the user `trusted` it; None: where he did when a stage wrote the folder. `how` goes to
    from_pretrained: another file of weights (`variant`), or a quantisation. Raises ValueError where the model cannot be
    used, and says why.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one a model would fill the logs of a stage
    about = json.loads((folder / "config.json").read_text("utf-8"))
    if reason := refusal(folder, about, trusted):
        raise ValueError(reason)
    if (folder / "adapter_config.json").is_file():  # transformers would load the model that it names instead
        raise ValueError(f"{folder.name} has an adapter_config.json, expected a whole model: merge the adapter first")
    own_code = "auto_map" in about
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=own_code)
    if reason := _unsupported(config):
        raise ValueError(f"{folder.name}/config.json {reason}")
    without_dropout(config)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they come back in `info`, and are refused below
            trust_remote_code=own_code,
            attn_implementation="sdpa",
            output_loading_info=True,
            dtype=dtype,
            **how,
        )
    except SafetensorError as error:
        raise ValueError(f"weights of {folder.name} cannot be read ({error}): fetch them again, whole") from error
    if wrong := {kind: sorted(map(str, names)) for kind, names in info.items() if names}:
        raise ValueError(f"weights of {folder.name} do not fit its config.json: {wrong}")
    if own_code:
        model.remote_code = read_code(folder)
    fuse_norms(model)
    return model.eval()


def _unsupported(config: Any) -> str | None:
    """Why a model of this configuration cannot be trained here, or None."""
    if changed := [name for name in HEAD_TRANSFORMS if getattr(config, name, None) not in (None, 0, 1)]:
        return f"has {changed}: such logits are not supported"
    if config.get_text_config() is not config:
        return f"is of a model that reads more than text ({config.model_type}): give its language model alone"
    if getattr(config, "is_encoder_decoder", False):
        return f"is of an encoder with a decoder ({config.model_type}), expected a decoder alone"
    if not isinstance(getattr(config, "max_position_embeddings", None), int):
        return f"names no max_position_embeddings ({config.model_type}): how long a sequence may be is not known"
    return None


def without_dropout(config: Any) -> None:
    """Set every rate of dropout to 0."""
    for name, value in config.to_dict().items():
        if ("dropout" in name or name.endswith("pdrop") or name == "layerdrop") and isinstance(value, float):
            setattr(config, name, 0.0)
