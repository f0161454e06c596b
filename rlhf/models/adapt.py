"""A policy of a pretrained model: what can go wrong with a folder from elsewhere is said here, in one sentence."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from rlhf.chat import adapt_chat
from rlhf.chat.pretrained import Kind, read_json
from rlhf.errors import PreflowError
from rlhf.models.policy import Policy
from rlhf.models.pretrained import extend_embeddings, load_model

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def adapt_policy(
    folder: Path, seed: int, template: Kind = "auto", stop_token: str | None = None, *, trusted: bool = False
) -> Policy:
    """The model of a hub folder, with a chat (`rlhf.chat.adapt_chat`) and rows for the tokens that it adds.

    Raises PreflowError where the folder holds no model that can be used, and says what to do.
    """
    _check_files(folder)
    chat = adapt_chat(folder, template, stop_token)
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    try:
        model = load_model(folder, trusted=trusted)
    except (ValueError, OSError, ImportError, AttributeError) as error:
        raise PreflowError(f"the model in {folder.name} cannot be used: {_first_line(error)}") from error
    if (rows := model.get_input_embeddings().weight.shape[0]) < len(tokens):
        raise PreflowError(
            f"{folder.name} has {len(tokens)} tokens in its tokenizer and {rows} rows in its embedding, expected no "
            "fewer rows: the tokenizer is of another model"
        )
    extend_embeddings(model, chat, seed, first_new=1 + max(tokens.values()))
    _check_head(model, folder.name)
    return Policy(model, chat)


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise PreflowError(
            f"{folder} holds no model (config.json, model.safetensors, tokenizer.json): "
            "put one there, name one by base.model, or set base.source=scratch"
        )
    if "model_type" not in read_json(folder / "config.json"):
        raise PreflowError(f"{folder.name}/config.json names no model_type: is it of a model of transformers?")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    found = f"only {pickles[0]}, a pickle, which could run code when read" if pickles else "no weights"
    raise PreflowError(
        f"{folder.name} holds {found}, expected safetensors: where you trust it, convert it once with "
        f'`AutoModelForCausalLM.from_pretrained("{folder.name}").save_pretrained("{folder.name}")` of transformers'
    )


@torch.no_grad()
def _check_head(model: Any, name: str) -> None:
    """Whether logits are what the LM head says of the last hidden state, on which all log-probabilities here stand."""
    ids = torch.arange(8, device=model.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    ours = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(logits.float(), ours.float(), atol=1e-3, rtol=1e-3):
        raise PreflowError(f"{name} changes its logits after the LM head, which is not supported: take another model")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
