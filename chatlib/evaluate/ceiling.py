"""The most reward that a policy can have at a distance from where it started (chapter 10).

Of all policies q with KL(q || p) at most k, the one with the highest expected reward is p tilted,

    q(y) proportional to p(y) exp(strength r(y)),        strength such that KL(q || p) = k

(Korbak et al. 2022, section 3). Answers drawn from p are enough to weigh it: no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from chatlib.evaluate.winrate import Interval

STRENGTHS = np.concatenate([[0.0], np.geomspace(0.02, 60, 80)])


class Tilted(NamedTuple):
    """What tilting the answers to each prompt gives, at each strength. (prompts, strengths)

    ``kl`` in nats an answer, ``worth`` the expected value, ``effective`` how many of the prompt's
    answers carry the estimate, (sum w)^2 / sum w^2.
    """

    kl: np.ndarray
    worth: np.ndarray
    effective: np.ndarray


def weights(rewards: ArrayLike, strength: float) -> np.ndarray:
    """Each answer's share under q, of those drawn to its prompt. (prompts, N), rows sum to 1."""
    return special.softmax(strength * np.asarray(rewards, dtype=float), axis=1)


def tilt(
    rewards: ArrayLike,
    values: ArrayLike | None = None,
    strengths: Sequence[float] | np.ndarray = STRENGTHS,
) -> Tilted:
    """Tilt by ``rewards`` and report ``values`` (None: the rewards), both (prompts, N).

    The N answers to a prompt are draws from p. The KL is estimated with them as well:
    sum_i w_i log(N w_i), at most log N; where few answers carry the weight both figures are too
    low, and ``effective`` says so.
    """
    r = np.asarray(rewards, dtype=float)
    v = r if values is None else np.asarray(values, dtype=float)
    if r.shape != v.shape or r.ndim != 2:
        raise ValueError(f"rewards {r.shape} and values {v.shape}; give two (prompts, answers)")
    columns = []
    for strength in strengths:
        w = weights(r, strength)
        kl = special.xlogy(w, w * r.shape[1]).sum(1)
        columns.append((kl, (w * v).sum(1), 1 / (w**2).sum(1)))
    return Tilted(*(np.stack(column, axis=1) for column in zip(*columns)))


def at_kl(tilted: Tilted, kl: float | Sequence[float]) -> np.ndarray:
    """Mean worth over the prompts where their mean KL is ``kl``; NaN beyond the strongest tilt."""
    return np.interp(kl, tilted.kl.mean(0), tilted.worth.mean(0), right=np.nan)


def effective_at(tilted: Tilted, kl: float | Sequence[float]) -> np.ndarray:
    """Mean number of answers a prompt that carry the estimate where the mean KL is ``kl``."""
    return np.interp(kl, tilted.kl.mean(0), tilted.effective.mean(0), right=np.nan)


def interval_at(
    tilted: Tilted, kl: float, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """`at_kl` with its percentile bootstrap interval over prompts (Efron and Tibshirani 1993).

    The strength that gives this KL is found anew in every resample.
    """
    prompts, rng = len(tilted.kl), np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        own = rng.integers(prompts, size=prompts)
        found.append(np.interp(kl, tilted.kl[own].mean(0), tilted.worth[own].mean(0)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(float(at_kl(tilted, kl)), float(low), float(high), prompts)
