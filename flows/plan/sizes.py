"""Sizes of the model that a run starts from, read before anything is loaded: from its files, or from a name."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.sizes import Sizes
from tasks.config import ConfigError

NAMED = {
    "0.5B": Sizes(151936, 896, 24, 14, 2, 64, 4864, tied=True),
    "1.5B": Sizes(151936, 1536, 28, 12, 2, 128, 8960, tied=True),
    "8B": Sizes(128256, 4096, 32, 32, 8, 128, 14336, tied=False),
    "70B": Sizes(128256, 8192, 80, 64, 8, 128, 28672, tied=False),
}
"""Those of Qwen2.5 0.5B and 1.5B, and of Llama 3.1 8B and 70B, as their config.json has them."""
AS_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
"""Kinds of models that are called by their parts (`rlhf.models.blocks`), by their `model_type`."""
WORDS = 300
"""Words of the embedded world, where its corpus is not made yet."""
LARGEST_HEAD = 100_000_000
"""Bytes; safetensors' own limit."""
_PLACES = ("data/inbox/checkpoint", "data/04_base/policy")


def sizes_of(root: Path, base: Mapping[str, Any], shape: str = "") -> Sizes:
    """Of what section `base` starts from, or of a named `shape`.

    Raises:
        ConfigError: no such shape, or the checkpoint's files are not here; it says what to do.
    """
    if shape:
        if shape not in NAMED:
            raise ConfigError(f"--shape {shape}: not one of {', '.join(NAMED)}; a model of your own: base.model")
        return NAMED[shape]
    if base["source"] == "scratch":
        heads, hidden = base["num_heads"], base["hidden_size"]
        vocab = _vocabulary(root / "data/04_base/policy")
        return Sizes(
            vocab, hidden, base["num_layers"], heads, heads, hidden // heads, base["intermediate_size"], tied=True
        )
    if folder := folder_of(root, base):
        return of_folder(folder)
    named = base.get("model")
    here = "name a folder that has it as base.model" if named else f"put the checkpoint into {_PLACES[0]}"
    raise ConfigError(
        f"the sizes of {named or _PLACES[0]} are not known here, as its config.json is not: {here}, or plan with "
        f"--shape {'|'.join(NAMED)}"
    )


def folder_of(root: Path, base: Mapping[str, Any]) -> Path | None:
    """The model folder of what section `base` starts from; None where it is not here, or is made from scratch."""
    if base["source"] == "scratch":
        return None
    named = base.get("model")
    folders = [root / Path(named).expanduser()] if named else [root / place for place in _PLACES]
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def of_folder(folder: Path) -> Sizes:
    """Of a model folder: config.json, and the shapes in the heads of its safetensors files where there are any.

    Raises:
        ConfigError: it is no config.json of a causal language model.
    """
    try:
        told = json.loads((folder / "config.json").read_text("utf-8"))
        config = told.get("text_config") or told
        return _sizes(config, _shapes(folder))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
        raise ConfigError(
            f"{folder / 'config.json'}: no sizes of a causal language model in it ({type(error).__name__}: {error}); "
            f"plan with --shape {'|'.join(NAMED)}"
        ) from None


def _sizes(config: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> Sizes:
    """Files say less and less: what config.json leaves out, as it is the architecture's default, weights still have."""
    embedding = _first(shapes, r"(embed_tokens|wte)\.weight$")
    query, key = _first(shapes, r"\.q_proj\.weight$"), _first(shapes, r"\.k_proj\.weight$")
    up = _first(shapes, r"\.(up_proj|fc1|c_fc|dense_h_to_4h)\.weight$")
    hidden = embedding[1] if embedding else int(config.get("hidden_size") or config["n_embd"])
    heads = int(config.get("num_attention_heads") or config.get("n_head") or max(1, hidden // 64))
    size = int(config.get("head_dim") or (query[0] if query else hidden) // heads)
    blocks = {found[1] for name in shapes if (found := re.search(r"\.(\d+)\.", name))}
    return Sizes(
        vocab=embedding[0] if embedding else int(config["vocab_size"]),
        hidden=hidden,
        layers=len(blocks) or int(config.get("num_hidden_layers") or config["n_layer"]),
        heads=heads,
        kv_heads=key[0] // size if key else int(config.get("num_key_value_heads") or heads),
        head_size=size,
        intermediate=max(up) if up else int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden),
        tied=not _first(shapes, r"lm_head\.weight$") if shapes else bool(config.get("tie_word_embeddings", True)),
        gated=bool(_first(shapes, r"\.gate_proj\.weight$")) if shapes else True,
        by_parts=config.get("model_type") in AS_LLAMA,
        experts=int(config.get("num_local_experts") or config.get("num_experts") or 1),
        known=sum(math.prod(shape) for shape in shapes.values()) or None,
    )


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Of all tensors in the safetensors files of a folder, from their heads alone."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(LARGEST_HEAD, path.stat().st_size):  # no safetensors: what git keeps in its place, a torn one
                return {}
            head = json.loads(file.read(size))
        found |= {name: about["shape"] for name, about in head.items() if name != "__metadata__"}
    return found


def _first(shapes: Mapping[str, list[int]], pattern: str) -> list[int] | None:
    return next((shape for name, shape in shapes.items() if re.search(pattern, name)), None)


def _vocabulary(folder: Path) -> int:
    return of_folder(folder).vocab if (folder / "config.json").is_file() else WORDS
