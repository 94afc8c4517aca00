"""Gold reward against the distance from the starting policy: over-optimisation (chapter 6).

The distance is d = sqrt(KL), KL in nats a sequence between the policy and the one it started from
(Gao, Schulman and Hilton 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from chatlib.evaluate import selection
from chatlib.evaluate.winrate import Interval

Shape = Literal["linear", "log"]


class Fit(NamedTuple):
    """Parameters of `curve`, and the share of the points' variance that it explains."""

    a: float
    b: float
    r2: float


def distance(kl: ArrayLike) -> np.ndarray:
    """d = sqrt(KL) of KL in nats; an estimate below 0 counts as 0. Same shape."""
    return np.sqrt(np.maximum(np.asarray(kl, dtype=float), 0.0))


def smooth(values: ArrayLike, window: int) -> np.ndarray:
    """Centred mean over ``window`` iterations, of those that there are at the ends. (T,) to (T,)"""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"`window` is {window}; use an odd number of iterations")
    x = np.asarray(values, dtype=float)
    half, sums = window // 2, np.concatenate([[0.0], np.cumsum(x)])
    first = np.maximum(np.arange(len(x)) - half, 0)
    last = np.minimum(np.arange(len(x)) + half + 1, len(x))
    return (sums[last] - sums[first]) / (last - first)


def _brake(d: np.ndarray, shape: Shape) -> np.ndarray:
    """What b multiplies: d * d (linear) or d * log d (log), 0 at d = 0."""
    if shape not in ("linear", "log"):
        raise ValueError(f"`shape` is {shape!r}; use linear or log")
    return d * d if shape == "linear" else special.xlogy(d, d)


def curve(d: ArrayLike, a: float, b: float, shape: Shape) -> np.ndarray:
    """Gain in gold at distance d: d (a - b d), or d (a - b log d). Same shape as ``d``.

    Both pass through 0 at d = 0. Gao, Schulman and Hilton (2023): linear for best of
    n, log for reinforcement learning.
    """
    x = np.asarray(d, dtype=float)
    return a * x - b * _brake(x, shape)


def fit(d: ArrayLike, gain: ArrayLike, shape: Shape) -> Fit:
    """The a and b of `curve` with the least squared error. ``d`` and ``gain`` are (N,).

    ``gain`` is gold less that of the starting policy. R2 is measured against the mean gain: below
    0 the mean would do better.
    """
    x, y = np.asarray(d, dtype=float), np.asarray(gain, dtype=float)
    if len(x) != len(y) or len(set(x[x > 0])) < 2:
        raise ValueError(
            f"{len(x)} distances and {len(y)} gains; a fit needs as many of each, and at least "
            "two different distances above 0"
        )
    columns = np.stack([x, -_brake(x, shape)], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, y)
    left = ((y - columns @ [a, b]) ** 2).sum()
    return Fit(float(a), float(b), float(1 - left / ((y - y.mean()) ** 2).sum()))


def at_distance(d: ArrayLike, gold: ArrayLike, target: float) -> float:
    """Gold when a run first was ``target`` away from where it began; NaN if it never was.

    ``d`` and ``gold`` are (T,), iteration by iteration, smoothed beforehand. Only iterations that
    are further away than all before them count; between two of them the line is straight.
    """
    x, y = np.asarray(d, dtype=float), np.asarray(gold, dtype=float)
    further = np.concatenate([[True], x[1:] > np.maximum.accumulate(x)[:-1]])
    return float(np.interp(target, x[further], y[further], left=np.nan, right=np.nan))


def best_of_n(score: ArrayLike, value: ArrayLike, sizes: Sequence[int]) -> np.ndarray:
    """Expected ``value`` of the answer with the highest ``score`` among n drawn; no bias.

    ``score`` and ``value`` are (prompts, N) of the same N answers; returns (prompts, sizes). Of all
    C(N, n) subsets the i-th lowest score is the highest in C(i - 1, n - 1), which is averaged
    exactly (Nakano et al. 2021); taking the first n only would waste the others.
    """
    scores, values = np.asarray(score, dtype=float), np.asarray(value, dtype=float)
    if scores.shape != values.shape or scores.ndim != 2:
        raise ValueError(f"shapes {scores.shape} and {values.shape}; give two (prompts, answers)")
    if not 1 <= min(sizes) <= max(sizes) <= scores.shape[1]:
        raise ValueError(f"`sizes` is {tuple(sizes)}; each must be 1 to {scores.shape[1]} answers")
    return selection.best_of(scores, values, sizes).to_numpy()


def best_of_n_kl(n: ArrayLike) -> np.ndarray:
    """KL of the best of n draws to the policy drawn from, in nats: log n - (n - 1) / n.

    Exact where no two draws are equal, else an upper bound (Beirami et al. 2024).
    """
    x = np.asarray(n, dtype=float)
    return np.log(x) - (x - 1) / x


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean over a few seeds with Student's interval: a bootstrap of three would be too narrow."""
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"{len(x)} seeds, not all finite or fewer than 2; leave out the missing")
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))
