"""When a run's curves are called strange: rarely by chance, surely when they are far off."""

import math
from random import Random

import pytest
from scipy.stats import t

from chatlib.evaluate import strangeness


def run(rng, shift=0.0, steps=20):
    """Three curves of a run: a level of its own each, and noise around it."""
    levels = [rng.gauss(10, 1) for _ in range(3)]
    return {
        name: [level + (shift if name == "b" else 0) + rng.gauss(0, 0.1) for _ in range(steps)]
        for name, level in zip("abc", levels)
    }


def test_a_curve_is_its_first_quarter_and_its_last_half():
    assert strangeness.traits({"kl": [1.0, 2, 3, 4, 5, 6, 7, 9]}) == {
        "kl, early": 1.5,
        "kl, late": 6.75,
    }


def test_the_distance_is_that_of_a_prediction_by_hand():
    assert strangeness.distance(5.0, [1.0, 3.0]) == pytest.approx(3 / (math.sqrt(2) * 1.5**0.5))
    assert strangeness.distance(0.5, [0.0, 0.0, 0.0]) > 1000  # no spread, but a stored digit


def test_the_limit_is_students():
    assert strangeness.limit(5, 1) == pytest.approx(t.ppf(0.975, 4))
    assert strangeness.limit(5, 22) > strangeness.limit(5, 1) > strangeness.limit(9, 1)


def test_few_healthy_runs_are_taken_for_sick_and_a_shifted_one_is_found():
    rng, alarms, found, n = Random(1), 0, 0, 400
    for _ in range(n):
        healthy = [run(rng) for _ in range(5)]
        alarms += bool(strangeness.strange(run(rng), healthy))
        found += "b, late" in strangeness.strange(run(rng, shift=30), healthy)
    assert alarms / n < strangeness.FALSE_ALARMS + 0.03
    assert found / n > 0.95


def test_what_is_strangest_comes_first_and_unknown_curves_are_left_out():
    rng = Random(2)
    healthy = [run(rng) for _ in range(5)]
    sick = run(rng, shift=500) | {"new": [1.0] * 20}
    sick["a"] = [x + 100 for x in sick["a"]]
    names = [name.split(",")[0] for name in strangeness.strange(sick, healthy)]
    assert names[:2] == ["b", "b"] and "new" not in names
