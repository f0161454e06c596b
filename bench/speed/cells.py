"""The table's lines: not every product of stage, shape, lengths and adapter, but those that answer a question.

Sizes are such that the faster side takes some seconds for the timed steps. `quick` is what ends in ten minutes.
"""

from dataclasses import replace
from typing import Any

from bench.speed.cell import Cell, Shape

TINY = Shape("tiny", 256, 128, 2, 4, 4, 384, 256, tied=True, init_std=0.05)
"""As the embedded default's base, whose vocabulary has about as many words."""
STORIES = Shape("stories3M", 4096, 192, 6, 6, 2, 512, 512, tied=True, checkpoint="stories3M")
M60 = Shape("m60", 32000, 512, 8, 8, 8, 1408, 1024, tied=False)
"""58 million weights, of which 33 million are embedding and LM head."""
Q500 = Shape("q500", 151936, 896, 24, 14, 2, 4864, 4096, tied=True)
"""The sizes of Qwen2.5-0.5B."""


def _three(shape: Shape, rows: int, steps: int, lengths: str = "short", **other: Any) -> list[Cell]:
    """The offline stages; a pair is two sequences."""
    pairs = max(1, rows // 2)
    return [
        Cell("sft", shape, lengths, rows, steps, **other),
        Cell("reward", shape, lengths, pairs, steps, **other),
        Cell("dpo", shape, lengths, pairs, steps, **other),
    ]


def _online(shape: Shape, prompts: int, steps: int, new: int, lengths: str = "short", **other: Any) -> list[Cell]:
    """The on-policy stages with as many completions each: groups of eight, PPO with one of each prompt."""
    grouped: dict[str, Any] = {"group": 8, "new_tokens": new, **other}
    return [
        Cell("grpo", shape, lengths, prompts, steps, **grouped),
        Cell("rloo", shape, lengths, prompts, steps, **grouped),
        Cell("ppo", shape, lengths, 8 * prompts, steps, **grouped | {"group": 1}),
    ]


def _quick(cells: list[Cell]) -> list[Cell]:
    return [replace(cell, quick=True) for cell in cells]


CPU = [
    *_quick([*_three(TINY, 32, 48), *_online(TINY, 8, 12, 64)]),
    *_three(STORIES, 32, 6),
    *_online(STORIES, 8, 2, 64),
    *_three(STORIES, 16, 4, "hh"),
    Cell("grpo", STORIES, "hh", 4, 2, group=8, new_tokens=32),
    *_quick([Cell("sft", M60, "short", 8, 2, warmup=1)]),
    *_three(M60, 8, 2, warmup=1)[1:],
    *_online(M60, 2, 1, 32, warmup=1),
    *_three(M60, 8, 1, "hh", warmup=1),
    Cell("grpo", M60, "hh", 1, 1, warmup=1, group=8, new_tokens=32),
    Cell("sft", M60, "short", 8, 2, warmup=1, lora=True),
    Cell("dpo", M60, "short", 4, 2, warmup=1, lora=True),
    Cell("grpo", M60, "short", 2, 1, warmup=1, group=8, new_tokens=32, lora=True),
]
_BF16: dict[str, Any] = {"dtype": "bfloat16", "device": "cuda"}
CUDA = [
    *_quick([*_three(Q500, 32, 8, **_BF16), *_online(Q500, 8, 2, 128, **_BF16)]),
    *_three(Q500, 16, 8, "hh", **_BF16),
    Cell("grpo", Q500, "hh", 4, 2, group=8, new_tokens=64, **_BF16),
    Cell("sft", Q500, "short", 32, 8, lora=True, **_BF16),
    Cell("dpo", Q500, "short", 16, 8, lora=True, **_BF16),
]


def chosen(device: str, quick: bool, only: list[str]) -> list[Cell]:
    """The cells of a device in the table's order; `only` keeps those whose name has one of these parts."""
    cells = [cell for cell in (CUDA if device == "cuda" else CPU) if cell.quick or not quick]
    wanted = [set(part.split("-")) for part in only]
    return [cell for cell in cells if not only or any(part <= set(cell.name.split("-")) for part in wanted)]
