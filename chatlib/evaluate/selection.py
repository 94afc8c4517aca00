"""Best of n: sample n answers, keep the one that a scorer likes best. What it gains and costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd


def best_of_kl(n: int) -> float:
    """``KL <= ln n - (n - 1) / n`` nats: how far the best of n answers is from the policy's own.

    Exact where all scores differ and no answer is drawn twice, otherwise more than the truth.
    Source: Stiennon et al. 2020, appendix G.3; that it is a bound: Beirami et al. 2025.
    """
    if n < 1:
        raise ValueError(f"n is {n}; the best of how many answers, 1 or more?")
    return math.log(n) - (n - 1) / n


def chance_to_be_best(answers: int, n: int) -> np.ndarray:
    """``C(k - 1, n - 1) / C(N, n)``: how often the k-th worst of N answers is the best of n.

    Over all choices of n out of the N answers. (N,), sums to 1; the best answer comes last.
    """
    if not 1 <= n <= answers:
        raise ValueError(f"n is {n}; give 1 to {answers}, the answers that there are")
    whole = math.comb(answers, n)
    return np.array([math.comb(k - 1, n - 1) / whole for k in range(1, answers + 1)])


def best_of(scores: np.ndarray, values: np.ndarray, sizes: Sequence[int]) -> pd.DataFrame:
    """What the best of n answers is worth, on average over all choices of n of the N drawn.

    ``scores`` (prompts, answers) choose, ``values`` of that shape are what counts. One row a
    prompt, one column each n of ``sizes``: an unbiased estimate that uses every answer, not the
    first n. Of equal scores the first counts as the lowest, which favours none of the values.
    Source: Nakano et al. 2021, appendix I.
    """
    scores, values = np.asarray(scores, dtype=float), np.asarray(values, dtype=float)
    if scores.shape != values.shape or scores.ndim != 2:
        raise ValueError(
            f"scores are {scores.shape} and values {values.shape}; both are (prompts, answers)"
        )
    ordered = np.take_along_axis(values, scores.argsort(axis=1, kind="stable"), axis=1)
    chances = {n: chance_to_be_best(scores.shape[1], n) for n in sizes}
    return pd.DataFrame({n: ordered @ chance for n, chance in chances.items()})


def best_of_kl_drawn(scores: np.ndarray, n: int) -> float:
    """KL of the best of n to the policy drawn from, in nats, from the ties among its scores.

    ``scores`` (prompts, answers) are of answers drawn from the policy. An answer of score s is
    kept with chance p(y) (F(s)^n - F(s-)^n) / P(s), F the distribution of the scores: equal scores
    are drawn apart by lot. Without ties it comes to `best_of_kl` as the answers become many.
    """
    found = []
    for row in np.asarray(scores, dtype=float):
        _, counts = np.unique(row, return_counts=True)
        up_to = np.cumsum(counts) / len(row)
        kept = up_to**n - np.concatenate([[0.0], up_to[:-1]]) ** n
        found.append(float(np.sum(kept * np.log(kept * len(row) / counts))))
    return float(np.mean(found))
