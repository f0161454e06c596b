"""What all of TRL's trainers are given: models, tokenizer, settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

Result = tuple[Tensor, Mapping[str, Tensor]]
"""The loss, and gradients by parameter name."""
DUMMY_TEXT = "w1 w2"
SETTINGS = {
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "save_strategy": "no",
}


class Inputs:
    """What inputs.py wrote, models in float64."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches = json.loads((folder / "batches.json").read_text("utf-8"))
        self.heads = load_file(folder / "heads.safetensors")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "policy")

    def policy(self, name: str = "policy") -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder / name, dtype=torch.float64)

    def scorer(self, name: str) -> Any:
        """A backbone with a scalar head."""
        model = AutoModelForSequenceClassification.from_pretrained(
            self.folder / name, num_labels=1, dtype=torch.float64
        )
        model.score.weight.data.copy_(self.heads[name][None])
        return model


def settings(kind: Any, folder: str, **knobs: Any) -> Any:
    return kind(output_dir=folder, **SETTINGS, **knobs)


def backward(model: Any, loss: Tensor) -> Result:
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
