"""What TRL's trainers are given, and how their steps are watched.

Settings are its fast ones for this machine: no recomputed activations, no half precision that a processor emulates, no
saving, no logging but of the first step. On a GPU weights are bfloat16 too, without the float32 copies that ours keeps.
With --as-it-comes it keeps its defaults in all that is not work: recomputation, the order of rows, when the reference
is asked.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from bench.speed.cell import Cell
from bench.speed.clock import Clock, versions

LR = 1e-5


class Inputs:
    """A cell's inputs, and its clock."""

    def __init__(self, folder: Path, as_it_comes: bool) -> None:
        self.cell = Cell.read(folder)
        self.as_it_comes = as_it_comes
        self.folder = folder
        self.clock = Clock(self.cell.warmup, self.cell.steps, self.cell.device)
        self.path = Path(json.loads((folder / "models.json").read_text("utf-8"))["policy"])
        self.tokenizer = AutoTokenizer.from_pretrained(self.path, padding_side="left" if self.cell.samples else "right")

    def policy(self) -> Any:
        """The causal language model."""
        return self._placed(AutoModelForCausalLM.from_pretrained(self.path, dtype=getattr(torch, self.cell.dtype)))

    def scorer(self) -> Any:
        """The same backbone with a scalar head."""
        dtype = getattr(torch, self.cell.dtype)
        model = AutoModelForSequenceClassification.from_pretrained(self.path, num_labels=1, dtype=dtype)
        model.score.weight.data.copy_(load_file(self.folder / "head.safetensors")["head"][None])
        return self._placed(model)

    def _placed(self, model: Any) -> Any:
        model.config.use_cache = True
        return model.to(self.cell.device)

    def adapter(self) -> Any:
        """For `peft_config`: rank 16 on all linear layers but the LM head, or None."""
        if not self.cell.lora:
            return None
        from peft import LoraConfig

        return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")

    def settings(self, kind: Any, tuned: Mapping[str, Any] = MappingProxyType({}), **knobs: Any) -> Any:
        """A configuration with what all trainers share; what is `tuned` is left out where it runs as it comes."""
        cell = self.cell
        faster = {"gradient_checkpointing": False, "dataloader_pin_memory": cell.device == "cuda"} | dict(tuned)
        shared = {
            "output_dir": tempfile.mkdtemp(dir=self.folder),
            "max_steps": cell.warmup + cell.steps,
            "per_device_train_batch_size": cell.rows,
            "learning_rate": LR,
            "report_to": "none",
            "bf16": cell.dtype == "bfloat16",
            "use_cpu": cell.device == "cpu",
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_first_step": True,
            "logging_steps": 10**6,
            "seed": 0,
        }
        return kind(**shared | ({} if self.as_it_comes else faster) | knobs)


class Ticks(TrainerCallback):
    """Tells the clock of every step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.tick()


def count_rows(trainer: Any, clock: Clock) -> None:
    """Count the real tokens of every batch that the trainer steps on."""
    step = trainer.training_step

    def counted(model: Any, batch: Any, *arguments: Any, **named: Any) -> Any:
        mask = batch.get("attention_mask")
        clock.tokens += batch["input_ids"].numel() if mask is None else int(mask.sum())
        return step(model, batch, *arguments, **named)

    trainer.training_step = counted


def main(run: Callable[[Inputs], Any]) -> None:
    """python -m bench.speed.theirs.STAGE INPUTS RESULT [--as-it-comes]; `run` gives the trainer that it has run."""
    inputs = Inputs(Path(sys.argv[1]), as_it_comes="--as-it-comes" in sys.argv[3:])
    trainer = run(inputs)
    first = trainer.state.log_history[0]
    for name in ("loss", "grad_norm", "kl"):
        if name in first:
            inputs.clock.first[name] = float(first[name])
    if "objective/kl" in first:
        inputs.clock.first["kl"] = float(first["objective/kl"])
    inputs.clock.write(Path(sys.argv[2]), versions=versions("trl", "torch", "transformers"))
