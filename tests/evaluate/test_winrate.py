import numpy as np
import pytest

from chatlib.evaluate import winrate
from chatlib.evaluate.winrate import interval, mean_difference, win_rate


def test_ties_count_half():
    assert win_rate([1, 2, 3, 0], [0, 2, 1, 1]).value == (1 + 0.5 + 1 + 0) / 4


def test_a_tie_is_within_rounding():
    assert winrate.wins([0.1 + 0.2], [0.3])[0] == 0.5


def test_swapping_the_models_mirrors_the_rate():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    assert win_rate(a, b).value + win_rate(b, a).value == pytest.approx(1)


def test_same_seed_same_interval_another_seed_another():
    values = np.random.default_rng(1).normal(size=40)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_interval_is_close_to_the_normal_one():
    values = np.random.default_rng(2).normal(size=400)
    half = 1.96 * values.std() / 20
    found = interval(values, resamples=10_000)
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)


def test_interval_holds_the_truth_nineteen_times_in_twenty():
    """Coverage on 300 samples of 60 coin tosses; 4 standard errors around .95."""
    rng = np.random.default_rng(3)
    draws = (rng.random((300, 60)) < 0.7).astype(float)
    inside = [f.low <= 0.7 <= f.high for f in (interval(d, resamples=500) for d in draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 300) ** 0.5)


def test_pairs_are_resampled_whole():
    """A constant gain on very unequal prompts is certain: unpaired it would not be."""
    prompts = np.random.default_rng(4).normal(scale=10, size=50)
    gain = mean_difference(prompts + 1, prompts)
    assert gain.low == pytest.approx(1) and gain.high == pytest.approx(1)


def test_equal_values_have_an_interval_of_width_zero():
    assert interval([0.5] * 9) == (0.5, 0.5, 0.5, 9)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: win_rate([1, 2], [1]), "2 scores against 1"),
        (lambda: interval([1.0]), "at least 2 finite numbers"),
        (lambda: interval([1.0, float("nan")]), "with 1 not finite"),
    ],
)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
