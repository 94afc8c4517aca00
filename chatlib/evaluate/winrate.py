"""Win rates and mean differences with bootstrap intervals (Efron 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate with its confidence interval, from ``n`` independent pairs."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(
    values: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Mean of ``values`` with its percentile bootstrap interval.

    The values are drawn again with replacement, ``resamples`` times; the interval holds the
    middle ``confidence`` of the means (Efron and Tibshirani 1993, chapter 13). The same
    seed gives the same interval.
    """
    from scipy.stats import bootstrap

    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise ValueError(
            f"an interval needs a list of at least 2 finite numbers, not shape {sample.shape} "
            f"with {int((~np.isfinite(sample)).sum())} not finite; leave out what has no score"
        )
    if np.ptp(sample) == 0:  # every resample has this mean
        return Interval(float(sample[0]), float(sample[0]), float(sample[0]), len(sample))
    result = bootstrap(
        (sample,),
        np.mean,
        n_resamples=resamples,
        batch=500,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def _pairs(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    """Differences ours - theirs, one a prompt."""
    if len(ours) != len(theirs):
        raise ValueError(
            f"{len(ours)} scores against {len(theirs)}; both models must answer the same prompts"
        )
    return np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)


def wins(ours: Sequence[float], theirs: Sequence[float], tolerance: float = 1e-9) -> np.ndarray:
    """1 where ours scores higher, 0 where lower, 1/2 for a tie (within ``tolerance``)."""
    difference = _pairs(ours, theirs)
    return np.where(np.abs(difference) <= tolerance, 0.5, (difference > 0).astype(float))


def win_rate(ours: Sequence[float], theirs: Sequence[float], **options: Any) -> Interval:
    """Share of prompts on which ours scores higher, ties counting half, with its interval.

    ``ours[i]`` and ``theirs[i]`` are scores of answers to the same prompt i, by any judge.
    Whole pairs are resampled, because the two answers to a prompt are not independent.
    """
    return interval(wins(ours, theirs), **options)


def mean_difference(ours: Sequence[float], theirs: Sequence[float], **options: Any) -> Interval:
    """Mean of ours - theirs over the same prompts, with its interval (pairs resampled)."""
    return interval(_pairs(ours, theirs), **options)
