"""Adapters on disk: a folder of each, as PEFT reads it, and what base they lie on.

    policy/
      model.base.safetensors    weights of the base, byte for byte those that the first adapter was trained on
      adapters.json             their SHA-256, how the base is kept in memory, and the adapters in order
      adapters/1-sft/           adapter_config.json, adapter_model.safetensors
      adapters/2-rl/

The weights have a name of their own, so that nothing takes the base alone for the policy. Equal adapters are equal
bytes: PEFT itself writes sets in random order and the path of the base.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.errors import PreflowError
from rlhf.models.adapters import Adapter, Base, Origin, Shape
from rlhf.records import write_json

STACK = "adapters.json"
PLAIN_WEIGHTS, BASE_WEIGHTS = "model.safetensors", "model.base.safetensors"
_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


def weights_file(folder: Path) -> Path:
    """The weights of a policy folder, or those of its base where it has adapters."""
    return folder / (BASE_WEIGHTS if (folder / STACK).is_file() else PLAIN_WEIGHTS)


def origin_of(folder: Path) -> Origin:
    """What a folder with adapters lies on. Raises PreflowError where its weights are not those of its adapters."""
    about = json.loads((folder / STACK).read_text(encoding="utf-8"))["base"]
    found = sha256_of(folder / BASE_WEIGHTS)
    if found != about["weights"]:
        raise PreflowError(
            f"{folder}/{BASE_WEIGHTS} has SHA-256 {found[:16]}, its adapters were trained on {about['weights'][:16]}: "
            "restore the folder (`dvc checkout`), or run the stage that writes it again"
        )
    return Origin(folder, about["weights"], about["quantised"], about["dtype"])


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, computed once as long as it does not change."""
    about = path.stat()
    return _sha256(path, about.st_ino, about.st_size, about.st_mtime_ns)


@cache
def _sha256(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_adapters(folder: Path, base: Base) -> list[Adapter]:
    """The adapters of a policy folder, put on `base` unless they are there.

    Raises ValueError where one does not fit the model, or does not lie in the folder.
    """
    names = json.loads((folder / STACK).read_text(encoding="utf-8"))["adapters"]
    if outside := [name for name in names if name == ".." or Path(name).name != name]:
        raise ValueError(f"{folder.name}/{STACK} names {outside[0]!r}, expected adapters within {folder.name}/adapters")
    return [_read(folder / "adapters" / name, base) for name in names]


def _read(folder: Path, base: Base) -> Adapter:
    key = hashlib.sha256(f"{sha256_of(folder / _CONFIG)} {sha256_of(folder / _TENSORS)}".encode()).hexdigest()[:16]
    if key in base.adapters:
        return base.adapters[key]
    about = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    tokens = next(iter(about["trainable_token_indices"].values()), ())
    shape = Shape(about["r"], about["lora_alpha"], about["lora_dropout"], tuple(about["target_modules"]), tuple(tokens))
    adapter = base.add(folder.name.partition("-")[2], shape, key=key)
    saved, wanted = load_file(folder / _TENSORS), adapter.tensors()
    if {name: tensor.shape for name, tensor in saved.items()} != {name: one.shape for name, one in wanted.items()}:
        wrong = sorted(saved.keys() ^ wanted.keys()) or [
            name for name in wanted if saved[name].shape != wanted[name].shape
        ]
        raise ValueError(f"{folder.name}/{_TENSORS} does not fit the model: {len(wrong)} tensors, first {wrong[:1]}")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(saved[name])
    return adapter


def write_adapters(folder: Path, origin: Origin, adapters: Sequence[Adapter]) -> None:
    """Write the base and the adapters on it, and read them back.

    Raises PreflowError where what was written is not what is in memory.
    """
    link_or_copy(weights_file(origin.folder), folder / BASE_WEIGHTS)
    for name in ("config.json", "generation_config.json"):
        if not (folder / name).exists():
            shutil.copyfile(origin.folder / name, folder / name)
    names = [f"{number}-{adapter.label}" for number, adapter in enumerate(adapters, start=1)]
    for name, adapter in zip(names, adapters, strict=True):
        write_adapter(folder / "adapters" / name, adapter.shape, adapter.rows, adapter.tensors())
    base = {"weights": origin.weights, "quantised": origin.quantised, "dtype": origin.dtype}
    write_json(folder / STACK, {"base": base, "adapters": names})


def write_adapter(folder: Path, shape: Shape, rows: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write one adapter as PEFT reads it. Raises PreflowError where it does not read back as it was written."""
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "target_modules": list(shape.targets),
        "trainable_token_indices": {path.rpartition(".")[2]: list(shape.tokens) for path in rows},
    }
    write_json(folder / _CONFIG, about)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(kept, folder / _TENSORS, metadata={"format": "pt"})
    found = load_file(folder / _TENSORS)
    if found.keys() != kept.keys() or not all(torch.equal(found[name], kept[name]) for name in kept):
        raise PreflowError(f"{folder} does not hold what was written to it: is the disk full? Run the stage again")


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """The same file under another name, or a copy where the file system has no links; policies are never edited."""
    source, target = Path(source), Path(target)
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
