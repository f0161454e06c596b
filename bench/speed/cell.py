"""What one cell of the table is. Light: both sides read it before torch is there."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Shape:
    """A Llama by its sizes."""

    name: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    positions: int
    tied: bool
    init_std: float = 0.02
    checkpoint: str | None = None
    """Folder below `models` of the shared material whose weights it has; None: random ones."""

    @property
    def body(self) -> int:
        """Weights of the linear layers of all blocks: 2 of these are a token's FLOPs forward, attention apart."""
        head = self.hidden // self.heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_heads * head
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of the linear layers of one block."""
        narrow = self.kv_heads * (self.hidden // self.heads)
        square, key = (self.hidden, self.hidden), (self.hidden, narrow)
        return [square, key, key, square, *[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden)]


@dataclass(frozen=True)
class Cell:
    """A stage with its model, lengths and batch."""

    stage: str
    """sft, reward, dpo, grpo, rloo or ppo."""
    shape: Shape
    lengths: str
    """`short` prompts with long replies, or `hh`: long prompts with short replies, lengths of the real file."""
    rows: int
    """Demonstrations, pairs or prompts of one optimiser step (an update of `ppo`)."""
    steps: int
    """Steps that are timed."""
    warmup: int = 2
    """Steps before these."""
    group: int = 1
    """Completions of a prompt."""
    new_tokens: int = 0
    """Tokens of each completion that is sampled: no model here can stop."""
    lora: bool = False
    dtype: str = "float32"
    device: str = "cpu"
    quick: bool = False
    """Is in the part that `--quick` measures."""

    @property
    def name(self) -> str:
        """Of its file: stage, shape, lengths, and whether it has an adapter."""
        return "-".join([self.stage, self.shape.name, self.lengths, *(["lora"] if self.lora else [])])

    @property
    def setting(self) -> str:
        """As the table has it."""
        lengths = {"short": "short prompts, long replies", "hh": "HH's lengths"}[self.lengths]
        return ", ".join([self.shape.name, lengths, *(["LoRA"] if self.lora else [])])

    @property
    def samples(self) -> bool:
        """Learns from what it samples itself."""
        return self.stage in ("grpo", "rloo", "ppo")

    @property
    def inner_steps(self) -> int:
        """Optimiser steps on one batch of rollouts."""
        return 2 if self.stage == "ppo" else 1

    @property
    def total_rows(self) -> int:
        """Of the whole run, warm-up included; every row is seen once."""
        return self.rows * (self.warmup + self.steps)

    def as_dict(self) -> dict[str, object]:
        """All that a measurement depends on, so not `quick`."""
        return {name: value for name, value in asdict(self).items() if name != "quick"}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The cell of an inputs folder."""
        values = json.loads((folder / "cell.json").read_text("utf-8"))
        return cls(**values | {"shape": Shape(**values["shape"])})
