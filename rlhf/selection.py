"""Selecting completions by reward, each rule with its random twin, and what best-of-n would have given.

A gain over a random selection of the same size is owed to the reward; a gain over nothing may be owed to more training.
P prompts, N completions a prompt (rejection sampling: RLHF book, chapter 9).
"""

import math

import numpy as np
from numpy.typing import NDArray

from rlhf.seeding import derive

Pick = tuple[int, int]
"""(prompt index, completion index)."""


def top_per_prompt(rewards: NDArray[np.floating], finished: NDArray[np.bool_]) -> list[Pick]:
    """The best finished completion of each prompt, argmax_j r_ij; the first of equals. Both arguments [P, N].

    Completions that were cut off carry a fixed reward, which says nothing of them; prompts without others are left out.
    """
    _check(rewards)
    best = np.where(finished, rewards, -np.inf).argmax(axis=1)
    return [(int(prompt), int(best[prompt])) for prompt in finished.any(axis=1).nonzero()[0]]


def random_per_prompt(finished: NDArray[np.bool_], seed: int) -> list[Pick]:
    """The random twin of `top_per_prompt`: of the same prompts, one of the same candidates, uniformly. [P, N]."""
    draws = _random(seed, "random_per_prompt").random(len(finished))
    candidates = [np.flatnonzero(row) for row in finished]
    return [
        (prompt, int(known[int(draw * len(known))]))
        for prompt, (known, draw) in enumerate(zip(candidates, draws, strict=True))
        if len(known)
    ]


def top_overall(rewards: NDArray[np.floating], finished: NDArray[np.bool_], k: int) -> list[Pick]:
    """The k best finished completions of all, best first, earlier ones first among equals. Arrays [P, N].

    Prompts may appear several times or not at all. Raises ValueError unless 1 <= k <= how many are finished.
    """
    _check(rewards)
    _check_k(k, int(finished.sum()))
    order = np.argsort(-np.where(finished, rewards, -np.inf).reshape(-1), kind="stable")[:k]
    return [divmod(int(flat), rewards.shape[1]) for flat in order]


def random_overall(finished: NDArray[np.bool_], k: int, seed: int) -> list[Pick]:
    """The random twin of `top_overall`: k different finished completions of all, uniformly. [P, N]."""
    _check_k(k, int(finished.sum()))
    draws = _random(seed, "random_overall").choice(np.flatnonzero(finished), size=k, replace=False)
    return [divmod(int(flat), finished.shape[1]) for flat in draws]


def best_of_n(proxy: NDArray[np.floating], gold: NDArray[np.floating], n: int) -> NDArray[np.float64]:
    """Expected gold of the proxy's favourite among n completions drawn from the N without replacement, exactly.

    With the N completions of a prompt in ascending order of proxy, the i-th (from 1) is the best of the draw with
    probability C(i−1, n−1) / C(N, n). Equal proxies share the probability of their ranks, as a fair tie-break would.

    Args:
        proxy: [P, N] what selects.
        gold: [P, N] what is reported; give `proxy` again for the proxy's own curve.
        n: 1 to N.

    Returns:
        [P] one expectation a prompt; unbiased for best-of-n of fresh samples.
    """
    _check(proxy)
    if gold.shape != proxy.shape:
        raise ValueError(f"gold has shape {gold.shape}, proxy {proxy.shape}: expected equal")
    total = proxy.shape[1]
    if not 1 <= n <= total:
        raise ValueError(f"n={n}: expected 1 to {total}, the completions a prompt has")
    by_rank = np.array([math.comb(rank, n - 1) / math.comb(total, n) for rank in range(total)])
    order = np.argsort(proxy, axis=1, kind="stable")
    ranked = np.take_along_axis(proxy, order, axis=1)
    weights = np.empty(proxy.shape)
    for row, values in enumerate(ranked):
        _, tie, size = np.unique(values, return_inverse=True, return_counts=True)
        weights[row] = (np.bincount(tie, weights=by_rank) / size)[tie]
    result: NDArray[np.float64] = (weights * np.take_along_axis(gold, order, axis=1)).sum(axis=1)
    return result


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n ‖ base) in nats is at most log n − (n−1)/n, reached where nothing ties (Beirami, 2401.01879)."""
    if n < 1:
        raise ValueError(f"n={n}: expected at least 1")
    return math.log(n) - (n - 1) / n


def _check(rewards: NDArray[np.floating]) -> None:
    if rewards.ndim != 2 or 0 in rewards.shape:
        raise ValueError(f"rewards have shape {rewards.shape}: expected [prompts, completions], neither 0")
    if not np.isfinite(rewards).all():
        bad = int((~np.isfinite(rewards)).sum())
        raise ValueError(f"{bad} of {rewards.size} rewards are not finite: score the completions first")


def _check_k(k: int, available: int) -> None:
    if not 1 <= k <= available:
        raise ValueError(f"k={k}: expected 1 to {available}, the finished completions there are")


def _random(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(derive(seed, name))
