"""Intervals, win rates, calibration and correlation: the arithmetic behind every number that preflow reports.

Letters: P prompts, G and H completions a prompt, N samples. The unit of resampling is the prompt, never the completion:
completions of one prompt are alike, and counting them as independent makes every interval too narrow.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

_CHUNK = 4_000_000  # resampled values held at once (32 MB)
_Z975 = 1.959964
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # of 1 … 9 degrees of freedom


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% confidence interval."""

    mean: float
    ci_low: float
    ci_high: float

    def as_dict(self) -> dict[str, float]:
        """The three numbers as they stand in scores.json."""
        return {"mean": self.mean, "ci_low": self.ci_low, "ci_high": self.ci_high}


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of a reliability diagram: what was claimed (`confidence`) against what happened (`frequency`)."""

    low: float
    high: float
    count: int
    confidence: float
    frequency: float


def bootstrap_mean(values: ArrayLike, seed: int, samples: int = 2000) -> Interval:
    """Mean of `values` [P] (one a prompt) with the percentile bootstrap interval at 95%.

    Efron (1979), "Bootstrap methods: another look at the jackknife". The same seed and P give the same resamples, so
    intervals of several metrics over one set of prompts move together.
    Raises ValueError when `values` is empty, not one-dimensional or not finite.
    """
    data = _vector(values, "values")
    means = np.concatenate([data[drawn].mean(axis=1) for drawn in _resamples(len(data), seed, samples)])
    return percentile_interval(float(data.mean()), means)


def paired_bootstrap(a: ArrayLike, b: ArrayLike, seed: int, samples: int = 2000) -> Interval:
    """Mean of a − b with its 95% interval, where a[i] and b[i] [P] belong to the same prompt.

    Pairing removes the difficulty of the prompt from the comparison, which is most of the spread.
    Raises ValueError when the lengths differ.
    """
    left, right = _vector(a, "a"), _vector(b, "b")
    _same_length(left, right, "a and b, one value a prompt")
    return bootstrap_mean(left - right, seed, samples)


def clustered_bootstrap(values: ArrayLike, groups: Sequence[str], seed: int, samples: int = 2000) -> Interval:
    """Mean of `values` [N] with a 95% interval from drawing whole groups: rows of one group are not independent.

    Every row counts alike, so the mean is Σ values / Σ rows of the groups drawn. For a paired comparison hand over the
    differences, row by row. Raises ValueError when `values` is empty, not finite, or not as long as `groups`.
    """
    data = _vector(values, "values")
    if len(data) != len(groups):
        raise ValueError(f"values and groups must have the same length, got {len(data)} and {len(groups)}")
    _, index = np.unique(np.array(groups), return_inverse=True)
    sums, counts = np.bincount(index, weights=data), np.bincount(index)
    drawn = np.concatenate(list(_resamples(len(sums), seed, samples)))
    return percentile_interval(float(data.mean()), sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))


def crossed_bootstrap(values: ArrayLike, seed: int, samples: int = 2000) -> Interval:
    """Mean of `values` [S, P] over S training seeds and P prompts with a 95% interval that covers both.

    For a paired difference hand over the differences, pair by pair: values[s, p] = a[s, p] − b[s, p] of the same seed
    and prompt. Prompts and seeds are resampled independently, each with replacement, and every resample is the mean
    over the product of both (Owen 2007, "The pigeonhole bootstrap", 0712.1111). Prompts are drawn as `bootstrap_mean`
    draws them, so with one seed this is `bootstrap_mean(values[0])`: nothing can then be said about other seeds.

    Differs from the paper: resampling few things makes intervals too narrow, and seeds are few. So the deviations of
    the seeds' means from the grand mean are widened by t₀.₉₇₅(S−1)/z₀.₉₇₅ · √(S/(S−1)) before seeds are drawn (the
    "narrowness bias" and its remedy, Hesterberg 2015, 1411.5279): ×9.2 for 2 seeds, ×2.7 for 3, ×1.6 for 5.
    Raises ValueError when `values` is empty, not two-dimensional or not finite.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 2 or data.size == 0:
        raise ValueError(f"crossed_bootstrap needs [seeds, prompts] with at least one of each, got {data.shape}")
    return percentile_interval(float(data.mean()), crossed_resamples(data[None], seed, samples)[0])


def crossed_resamples(values: ArrayLike, seed: int, samples: int = 2000) -> Floats:
    """Resampled means [R, samples] of R tables `values` [R, S, P], all from the same draws of `crossed_bootstrap`.

    A resampled mean is linear in the values: row i minus row j are the resampled means of values[i] − values[j], so one
    call serves every difference between R policies.
    Raises ValueError when `values` is empty, not three-dimensional or not finite.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 3 or data.size == 0:
        raise ValueError(f"crossed_resamples needs [tables, seeds, prompts], at least one of each, got {data.shape}")
    _vector(data.ravel(), "values")
    tables, seeds, prompts = data.shape
    rows = data.mean(axis=2, keepdims=True)
    wide = data + (_widening(seeds) - 1.0) * (rows - rows.mean(axis=1, keepdims=True))
    flat = wide.reshape(tables * seeds, prompts).T
    pick = np.random.default_rng([seed, seeds])  # apart from the draws of prompts, which one seed has alone
    means = []
    for drawn in _resamples(prompts, seed, samples):
        places = drawn + prompts * np.arange(len(drawn))[:, None]
        counts = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
        by_seed = (counts.astype(np.float64) @ flat / prompts).reshape(len(drawn), tables, seeds)
        chosen = pick.integers(0, seeds, size=(len(drawn), 1, seeds))
        means.append(np.take_along_axis(by_seed, chosen, axis=2).mean(axis=2))
    return np.concatenate(means).T


def percentile_interval(mean: float, resampled: Floats) -> Interval:
    """95% interval of a mean from its resampled ones [samples]."""
    ends: Floats = np.percentile(resampled, [2.5, 97.5])
    return Interval(mean, float(ends[0]), float(ends[1]))


def win_rate(a: ArrayLike, b: ArrayLike) -> Floats:
    """Share of wins of `a` [P, G] over `b` [P, H] for each prompt, ties counted half. Returns [P].

    wᵢ = 1/(G·H) Σⱼₖ [aᵢⱼ > bᵢₖ] + ½[aᵢⱼ = bᵢₖ]. All G·H pairs are compared, so a policy scores ½ against itself.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.ndim != 2 or right.ndim != 2 or len(left) != len(right):
        raise ValueError(f"win_rate needs [P, G] and [P, H] over the same prompts, got {left.shape} and {right.shape}")
    difference = left[:, :, None] - right[:, None, :]  # [P, G, H]
    return ((np.sign(difference) + 1) / 2).mean(axis=(1, 2))


def reliability_bins(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Reliability diagram over equal-width bins of [0, 1]; empty bins are left out.

    `probabilities` [N] are claims that an event happens, `outcomes` [N] are 1 where it did (0.5 for a tie). For
    preference pairs take σ(reward margin) of a fixed side (first shown against second), not of the chosen one: the
    chosen side won by definition, and every outcome would be 1.
    """
    claimed, happened = _vector(probabilities, "probabilities"), _vector(outcomes, "outcomes")
    _same_length(claimed, happened, "probabilities and outcomes")
    if claimed.min() < 0 or claimed.max() > 1:
        raise ValueError(f"probabilities must lie in [0, 1], got {claimed.min():.3g} to {claimed.max():.3g}")
    index = np.minimum((claimed * bins).astype(int), bins - 1)
    result = []
    for number in range(bins):
        inside = index == number
        if inside.any():
            result.append(
                ReliabilityBin(
                    low=number / bins,
                    high=(number + 1) / bins,
                    count=int(inside.sum()),
                    confidence=float(claimed[inside].mean()),
                    frequency=float(happened[inside].mean()),
                )
            )
    return result


def expected_calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> float:
    """ECE = Σ_bins n_bin/N · |frequency − confidence|, in [0, 1]; 0 is perfectly calibrated.

    Naeini et al. (2015), "Obtaining well calibrated probabilities using Bayesian binning".
    """
    parts = reliability_bins(probabilities, outcomes, bins)
    total = sum(part.count for part in parts)
    return sum(part.count * abs(part.frequency - part.confidence) for part in parts) / total


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of two vectors [N]; 0.0 where one is constant, since nothing varies together with it."""
    left, right = _vector(a, "a"), _vector(b, "b")
    _same_length(left, right, "a and b")
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / scale if scale > 0 else 0.0


def _resamples(count: int, seed: int, samples: int) -> Iterator[NDArray[np.int64]]:
    """Indices of `samples` resamples of `count` things, [some, count] at a time."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // count)
    for start in range(0, samples, rows):
        yield rng.integers(0, count, size=(min(rows, samples - start), count))


def _widening(count: int) -> float:
    """t₀.₉₇₅ with count−1 degrees of freedom over z₀.₉₇₅, times √(count/(count−1)); 1 for a single one."""
    if count < 2:
        return 1.0
    free = count - 1
    t = _T975[free - 1] if free <= len(_T975) else _Z975 + (_Z975**3 + _Z975) / (4 * free)
    return t / _Z975 * math.sqrt(count / free)


def _vector(values: ArrayLike, name: str) -> Floats:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0:
        raise ValueError(f"{name} must be a list of at least one number, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(data)).sum())} values of {len(data)} that are not finite")
    return data


def _same_length(left: Floats, right: Floats, what: str) -> None:
    if len(left) != len(right):
        raise ValueError(f"{what} must have the same length, got {len(left)} and {len(right)}")
