"""Scaling laws: a loss as a function of weights and data, fitted, with intervals (chapter 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Numbers = Sequence[float] | np.ndarray
GRID = np.geomspace(0.05, 2.0, 40)  # exponents that a search begins from


class Law(NamedTuple):
    r"""L(N, D) = E + A (N_0 / N)^alpha + B (D_0 / D)^beta, in nats.

    N are weights, D tokens; E is what no size removes (Hoffmann et al. 2022, equation 2). At the
    pivots N_0 and D_0 the terms are A and B, nats that the size and the data cost there.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    pivot: tuple[float, float]  # (N_0, D_0)

    def __call__(self, weights: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """The loss of each pair of ``weights`` and ``tokens``."""
        n, d = np.asarray(weights, dtype=float), np.asarray(tokens, dtype=float)
        by_size, by_data = (self.pivot[0] / n) ** self.alpha, (self.pivot[1] / d) ** self.beta
        return self.E + self.A * by_size + self.B * by_data


def fit(
    weights: Numbers,
    tokens: Numbers,
    losses: Numbers,
    floor: float | None = None,
) -> Law:
    """The law of least squared relative error, with E at ``floor`` where that is given.

    For given exponents the rest is linear in E, A, B >= 0, so only the exponents are searched: on
    a grid, then with Nelder and Mead's method. At least 5 points (4 with a floor).
    """
    from scipy.optimize import minimize

    n, d, y = (np.asarray(x, dtype=float) for x in (weights, tokens, losses))
    if len(y) < (free := 5 - (floor is not None)):
        raise ValueError(f"{len(y)} points for {free} unknowns; measure more")
    logs = np.log(n.max() / n), np.log(d.max() / d)
    found = [(_linear(logs, y, (a, b), floor)[1], a, b) for a in GRID[::3] for b in GRID[::3]]
    start = np.log(min(found)[1:])
    best = minimize(
        lambda x: _linear(logs, y, np.exp(x), floor)[1],
        start,
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-12},
    )
    alpha, beta = np.exp(best.x)
    (e, a, b), _ = _linear(logs, y, (alpha, beta), floor)
    return Law(e, a, float(alpha), b, float(beta), (float(n.max()), float(d.max())))


def _linear(
    logs: tuple[np.ndarray, np.ndarray],
    losses: np.ndarray,
    exponents: Numbers,
    floor: float | None,
) -> tuple[tuple[float, float, float], float]:
    """(E, A, B), none negative, and the sum of squared relative errors, for given exponents."""
    from scipy.optimize import nnls

    terms = [np.exp(np.clip(e * x, 0, 50)) for e, x in zip(exponents, logs)]
    columns = [*([np.ones_like(losses)] if floor is None else []), *terms]
    matrix = np.stack(columns, axis=1) / losses[:, None]
    found, norm = nnls(matrix, (losses - (floor or 0.0)) / losses)
    e = float(floor) if floor is not None else float(found[0])
    return (e, float(found[-2]), float(found[-1])), float(norm**2)


def relative_error(law: Law, weights: Numbers, tokens: Numbers, losses: Numbers) -> float:
    """Root mean square of (predicted - measured) / measured."""
    y = np.asarray(losses, dtype=float)
    off = law(np.asarray(weights), np.asarray(tokens)) / y - 1
    return float(np.sqrt(np.mean(off**2)))


def resampled(
    weights: Numbers,
    tokens: Numbers,
    losses: Numbers,
    times: int = 200,
    seed: int = 0,
) -> list[Law]:
    """The laws of so many resamples: residuals of the fit drawn again and added to its prediction.

    Points stay where they are, so that every resample has every size and every amount of data
    (Efron and Tibshirani 1993, chapter 9). Residuals are relative, and widened for the 5 unknowns.
    """
    n, d, y = (np.asarray(x, dtype=float) for x in (weights, tokens, losses))
    law, rng = fit(n, d, y), np.random.default_rng(seed)
    told = law(n, d)
    off = (y / told - 1) * np.sqrt(len(y) / max(len(y) - 5, 1))
    draws = (told * (1 + rng.choice(off, len(off))) for _ in range(times))
    return [fit(n, d, np.maximum(draw, 1e-6)) for draw in draws]


def middle(values: Numbers, confidence: float = 0.95) -> tuple[float, float]:
    """The ends of the middle ``confidence`` of some values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(values, dtype=float), (tail, 1 - tail))
    return float(low), float(high)
