"""How far a cheap metric orders answers as the judge does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from chatlib.evaluate.winrate import Interval, interval, wins


def correlations(metrics: pd.DataFrame, gold: Sequence[float]) -> pd.DataFrame:
    """Rank correlation of every column of ``metrics`` with the judge, over all answers.

    Returns one row a metric: Spearman's ``rho``, Kendall's ``tau`` (tau-b: ties counted)
    and the answers ``n``. A constant column has no ranks: its correlation is NaN.
    """
    from scipy.stats import kendalltau, spearmanr

    judged = np.asarray(gold, dtype=float)
    if len(judged) != len(metrics):
        raise ValueError(f"{len(metrics)} answers but {len(judged)} gold scores; give one each")
    rows = {}
    for name, column in metrics.items():
        constant = column.nunique() < 2 or np.ptp(judged) == 0
        rho, tau = (
            (np.nan, np.nan)
            if constant
            else (spearmanr(column, judged).statistic, kendalltau(column, judged).statistic)
        )
        rows[name] = {"rho": rho, "tau": tau, "n": len(judged)}
    return pd.DataFrame.from_dict(rows, orient="index")


def pairwise(
    metric_a: Sequence[float],
    metric_b: Sequence[float],
    gold_a: Sequence[float],
    gold_b: Sequence[float],
    **options: Any,
) -> Interval:
    """Share of answer pairs (a, b) to one prompt that the metric orders as the judge does.

    Pairs that the judge ties on have no order to find and are left out (``n`` says how many
    remain); a tie of the metric counts half. .5 is what a coin reaches.
    """
    judged, measured = wins(gold_a, gold_b), wins(metric_a, metric_b)
    ordered = judged != 0.5
    if ordered.sum() < 2:
        raise ValueError(
            f"the judge orders {ordered.sum()} of {len(judged)} pairs; give pairs that differ"
        )
    agree = np.where(measured == 0.5, 0.5, (measured == judged).astype(float))
    return interval(agree[ordered], **options)
