"""What annotators' choices say about each flaw of an answer: a regression on differences."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from chatlib.data.shop_text import RAMBLES

RAMBLING = re.compile("|".join(map(re.escape, RAMBLES)), re.IGNORECASE)


def flaws(verdicts: pd.DataFrame) -> pd.DataFrame:
    """How much of each flaw is in an answer: one row an answer of `errors.judged`, one column each.

    0 or 1, but for ``facts missing`` (the share of the required that is not delivered) and
    ``invented fact`` (how many, at most two). A wrong number is both: it is invented, and the
    right one is missing. ``malformed``: word salad, a repetition, no end.
    """
    broken = (verdicts[["fluency", "repetition", "unfinished"]] < 0).any(axis=1)
    found = {
        "no salutation": verdicts["salutation"] < 1,
        "rude line": verdicts["rudeness"] < 0,
        "no closing": verdicts["closing"] < 0.5,
        "rambling": verdicts["answer"].str.contains(RAMBLING),
        "facts missing": 1 - verdicts["facts"] / 2,
        "invented fact": -verdicts["invented"],
        "leak": verdicts["leak"] < 0,
        "wrong refusal": verdicts["refusal"] < 0,
        "malformed": broken,
    }
    return pd.DataFrame(found).astype(float)


def bradley_terry_weights(
    differences: pd.DataFrame, rounds: int = 30
) -> tuple[pd.Series, pd.DataFrame]:
    """``P(a preferred to b) = sigmoid(sum_k w_k (x_k(a) - x_k(b)))``, fitted by Newton's method.

    ``differences`` (N, K): features of the chosen answer less those of the rejected one. Returns
    the weights (K,) in the unit of the loss and their covariance (K, K), from the curvature of
    the likelihood at its maximum. Source: Bradley and Terry 1952.
    """
    x = differences.to_numpy(dtype=float)
    weights, names = np.zeros(x.shape[1]), differences.columns
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-x @ weights))
        curvature = (x * (p * (1 - p))[:, None]).T @ x
        step = np.linalg.solve(curvature, x.T @ (1 - p))
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            covariance = np.linalg.inv(curvature)
            return pd.Series(weights, names), pd.DataFrame(covariance, names, names)
    raise ValueError(
        f"no maximum after {rounds} rounds: some feature orders all pairs; leave it out"
    )


def effects(
    weights: pd.Series, covariance: pd.DataFrame, changes: pd.DataFrame | None = None
) -> pd.DataFrame:
    """By how much changes (M, K) of the features move the score: ``value``, ``low``, ``high``.

    Without ``changes`` each feature goes from 0 to 1: the weights themselves. The interval of
    95 % is the weights' uncertainty; the changes count as known.
    """
    if changes is None:
        changes = pd.DataFrame(np.eye(len(weights)), weights.index, weights.index)
    x = changes[weights.index].to_numpy(dtype=float)
    value = x @ weights.to_numpy()
    half = 1.96 * np.sqrt(((x @ covariance.to_numpy()) * x).sum(axis=1))
    return pd.DataFrame({"value": value, "low": value - half, "high": value + half}, changes.index)
