"""Whether one run's curves are those of a healthy one: how far they lie from several healthy runs'.

A curve counts by two numbers, its mean over the first quarter and that over the last half. Each is
compared with the same number of n healthy runs of other seeds, as one more draw would be:

    t = |x - mean| / (s sqrt(1 + 1/n)),   s the healthy runs' standard deviation

which for normal numbers has Student's distribution with n - 1 degrees of freedom. All numbers of a
run are looked at together, so the limit is for the largest of them (Bonferroni).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

Curves = Mapping[str, Sequence[float]]
ROUNDED = 1e-4  # the digit to which curves are stored; no spread is known to be smaller
FALSE_ALARMS = 0.05  # of healthy runs, at most, are taken for sick


def traits(curves: Curves) -> dict[str, float]:
    """The two numbers of every curve, by ``name, early`` and ``name, late``."""
    found = {}
    for name, values in curves.items():
        early, late = values[: math.ceil(len(values) / 4)], values[len(values) // 2 :]
        found[f"{name}, early"] = statistics.fmean(early)
        found[f"{name}, late"] = statistics.fmean(late)
    return found


def distance(value: float, healthy: Sequence[float]) -> float:
    """t of one number among those of healthy runs, two of them at least."""
    n, spread = len(healthy), max(statistics.stdev(healthy), ROUNDED)
    return abs(value - statistics.fmean(healthy)) / (spread * math.sqrt(1 + 1 / n))


def limit(n: int, comparisons: int, alpha: float = FALSE_ALARMS) -> float:
    """The t that the largest of so many comparisons with n healthy runs exceeds by chance."""
    from scipy.stats import t

    return float(t.ppf(1 - alpha / (2 * comparisons), n - 1))


def strange(
    curves: Curves, healthy: Sequence[Curves], alpha: float = FALSE_ALARMS
) -> dict[str, float]:
    """The traits of a run that chance does not explain, each with t over its limit, largest first.

    Curves that the healthy runs lack are left out. Above 1 is strange.
    """
    known = [traits(one) for one in healthy]
    own = {name: x for name, x in traits(curves).items() if all(name in one for one in known)}
    if not own:
        return {}
    bound = limit(len(known), len(own), alpha)
    found = {name: distance(x, [one[name] for one in known]) / bound for name, x in own.items()}
    return {k: v for k, v in sorted(found.items(), key=lambda kv: -kv[1]) if v > 1}
