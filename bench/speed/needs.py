"""What a cell's timed steps need at least: floating-point operations and bytes, padding and recomputation not counted.

A weight costs 2 FLOPs a token forward and 4 backward (6·N·tokens in all), of which a frozen one saves the 2 for its own
gradient. Attention costs 4·H a layer for every pair of positions that see each other, and twice that backward. The LM
head is needed at the tokens of completions only, and by reward models not at all.
"""

from collections.abc import Iterable, Sequence

from bench.speed.cell import Cell, Shape

BYTES = {"float32": 4, "bfloat16": 2}
RANK = 16
Lengths = tuple[int, int]
"""(tokens of the prompt, tokens of the completion)."""


def forward(shape: Shape, rows: Iterable[Lengths], *, head: bool) -> tuple[float, float]:
    """FLOPs of one forward pass over whole rows: those of weights, and those of attention."""
    weights = attention = 0.0
    for prompt, completion in rows:
        tokens = prompt + completion
        weights += 2.0 * shape.body * tokens + (2.0 * shape.hidden * shape.vocab * completion if head else 0.0)
        attention += 4.0 * shape.hidden * shape.layers * tokens * (tokens + 1) / 2
    return weights, attention


def training(shape: Shape, rows: Sequence[Lengths], *, head: bool, lora: bool = False) -> float:
    """FLOPs of forward and backward."""
    weights, attention = forward(shape, rows, head=head)
    if not lora:
        return 3.0 * (weights + attention)
    adapters = RANK * shape.layers * sum(map(sum, shape.matrices))
    return 2.0 * weights + 3.0 * attention + 6.0 * adapters * sum(map(sum, rows))


def flops(cell: Cell, rows: Sequence[Lengths]) -> float:
    """Of all timed steps together, whose rows these are; of `ppo` and its like with the completions that it samples.

    The reference of DPO answers before the loop on both sides, so it is not in.
    """
    shape, learner = cell.shape, {"lora": cell.lora}
    if not cell.samples:
        return training(shape, rows, head=cell.stage != "reward", **learner)
    completed = [row for row in rows for _ in range(cell.group)]
    prompts_again = sum(forward(shape, [(prompt, 0)], head=False)[0] * (cell.group - 1) for prompt, _ in rows)
    sampled = sum(forward(shape, completed, head=True)) - prompts_again
    reference = sum(forward(shape, completed, head=True))
    learning = training(shape, completed, head=True, **learner) * cell.inner_steps
    if cell.stage != "ppo":
        return sampled + reference + learning
    reward_and_first_values = 2.0 * sum(forward(shape, completed, head=False))
    return (
        sampled
        + reference
        + learning
        + reward_and_first_values
        + training(shape, completed, head=False) * (cell.inner_steps)
    )


def bytes_moved(cell: Cell) -> float:
    """Of all timed steps: weights read forward and backward, gradients written, AdamW's 4 reads and 3 writes, once more
    all weights for each position that is sampled. Activations and caches, which may fit nearer, are not in.
    """
    shape, each = cell.shape, BYTES[cell.dtype]
    read = shape.body + shape.hidden * shape.vocab
    trained = RANK * shape.layers * sum(map(sum, shape.matrices)) if cell.lora else read
    models = 2 if cell.stage == "ppo" else 1
    step = models * (2 * read * each + trained * each + 7 * 4 * trained)
    return cell.steps * (step * cell.inner_steps + cell.new_tokens * read * each)
