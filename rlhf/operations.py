"""Floating-point operations of passes through a model, counted alike by what measures them and by what plans them.

A weight of a linear layer costs 2 a token forward, and backward 2 for its input and, where it is trained, 2 for itself:
6·N·tokens of a whole model, 2·N·tokens forward only. Attention costs 4·width a layer for every pair of positions that
see each other, and twice that backward. The LM head is counted where it is read. Padding and what is computed again are
not counted; norms, embeddings and scalar heads are too small to be; of a mixture all experts are, as if each were used.
"""


def forward(weights: float, per_pair: float, tokens: float, pairs: float) -> float:
    """Up to the hidden states, of linear layers with so many weights; `per_pair`: attention, all layers together."""
    return 2.0 * weights * tokens + per_pair * pairs


def backward(weights: float, trained: float, per_pair: float, tokens: float, pairs: float) -> float:
    """After `forward`, where so many of the weights are trained."""
    return 2.0 * (weights + trained) * tokens + 2.0 * per_pair * pairs


def head(passes: int, positions: float, hidden: int, vocab: int) -> float:
    """The LM head at so many positions: a pass forward, one backward to what it read, another where it is trained."""
    return 2.0 * passes * positions * hidden * vocab


def seen(length: float) -> float:
    """Pairs of positions that see each other in a row: each position sees itself and those before it."""
    return length * (length + 1) / 2
