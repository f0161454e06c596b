"""Six shapes, each with a term of its own on top, and five stages, whose tensors take a gigabyte or more together."""

from dataclasses import dataclass

from bench.speed.cell import Cell, Shape


@dataclass(frozen=True)
class Way:
    """A shape with how it is trained."""

    shape: Shape
    what: str
    rows: int = 16
    """Demonstrations, pairs (half as many) or completions of a step."""
    lora: bool = False


WAYS = [
    Way(Shape("plan-vocabulary", 64000, 640, 4, 10, 10, 1728, 1024, tied=False), "a wide vocabulary, not tied"),
    Way(Shape("plan-square", 32000, 768, 8, 12, 12, 2048, 1024, tied=True), "half of the weights in the embedding"),
    Way(Shape("plan-grouped", 16000, 1024, 6, 16, 4, 2816, 1024, tied=True), "four heads share a key"),
    Way(Shape("plan-deep", 8000, 512, 16, 8, 8, 1408, 1024, tied=True), "many blocks, many tokens", rows=32),
    Way(Shape("plan-wide", 16000, 768, 6, 12, 12, 6144, 1024, tied=True), "a wide feed-forward block"),
    Way(Shape("plan-adapter", 32000, 1280, 10, 10, 10, 3456, 1024, tied=True), "a frozen base", lora=True),
]
STAGES = ("sft", "reward", "dpo", "grpo", "ppo")


def cell(way: Way, stage: str) -> Cell:
    """Three steps: from the second on all of an optimiser's state is there."""
    rows = {"sft": way.rows, "ppo": way.rows, "grpo": way.rows // 8}.get(stage, way.rows // 2)
    sampled = {"grpo": {"group": 8, "new_tokens": 48}, "ppo": {"new_tokens": 48}}.get(stage, {})
    return Cell(stage, way.shape, "short", rows, 2, warmup=1, lora=way.lora, **sampled)
