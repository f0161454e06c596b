"""What a footprint is worked out from: a model's sizes, how it is kept and trained, and what goes through it."""

from dataclasses import dataclass
from typing import Literal

PACKED_BELOW = 0.9
"""`rlhf.models.packing.WORTH`; a test holds them together."""


@dataclass(frozen=True)
class Sizes:
    """A causal language model by its sizes."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    tied: bool
    gated: bool = True
    """Whether the feed-forward block has three matrices (SwiGLU) or two."""
    by_parts: bool = True
    """Whether built as Llama is (`rlhf.models.blocks`)."""
    experts: int = 1
    """Feed-forward blocks a layer, of a mixture."""
    known: int | None = None
    """Weights in all where they were counted; None: worked out from the sizes."""

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of the linear layers of one block, all experts."""
        wide, narrow = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = [(self.hidden, wide), (self.hidden, narrow), (self.hidden, narrow), (wide, self.hidden)]
        up = (self.hidden, self.intermediate)
        return attention + self.experts * ([up] * (2 if self.gated else 1) + [(self.intermediate, self.hidden)])

    @property
    def linear(self) -> int:
        """Weights of the linear layers of all blocks."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    @property
    def blocks(self) -> int:
        """Weights of all blocks, their norms too."""
        return self.linear + 2 * self.layers * self.hidden

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the LM head where that is another matrix."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.known or self.blocks + self.embedding * (1 if self.tied else 2) + self.hidden

    def adapter(self, rank: int) -> int:
        """Weights of an adapter on all linear layers but the LM head."""
        return self.layers * rank * sum(rows + columns for rows, columns in self.matrices)


@dataclass(frozen=True)
class How:
    """How a model is kept and trained: what section `training` says, and where."""

    method: Literal["full", "lora", "qlora"] = "full"
    rank: int = 16
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    cuda: bool = False
    """Whether on a GPU, where norms are those of transformers."""
    shards: int = 1
    """Processes that divide the blocks' weights, gradients and moments (`rlhf.sharding`); not those in 4 bits."""

    @property
    def value(self) -> int:
        """Bytes of a value in the model's precision."""
        return 4 if self.dtype == "float32" else 2


@dataclass(frozen=True)
class Pass:
    """The largest micro-batch."""

    places: int
    """B·T, padding counted."""
    tokens: int
    """N, of what rows share once."""
    under_loss: int
    """M."""
    several: bool = False
    """Whether a step has several, so that gradients of the earlier ones are there when the last is at its peak."""

    @property
    def packed(self) -> bool:
        """Whether it is laid out as its different tokens."""
        return self.tokens < PACKED_BELOW * self.places
