"""Fits, frontiers and best of n against brute force and against what goes wrong without them."""

import itertools
import math

import numpy as np
import pytest

from chatlib.evaluate import frontier
from chatlib.evaluate.frontier import (
    at_distance,
    best_of_n,
    best_of_n_kl,
    curve,
    distance,
    fit,
    over_seeds,
    smooth,
)


@pytest.mark.parametrize("shape", ["linear", "log"])
def test_a_curve_without_noise_is_found_again(shape):
    d = np.linspace(0, 3, 40)
    found = fit(d, curve(d, 1.5, 0.7, shape), shape)
    assert (found.a, found.b, found.r2) == pytest.approx((1.5, 0.7, 1.0))


def test_the_form_that_made_the_points_explains_them_better():
    d = np.linspace(0.05, 4, 80)
    noise = np.random.default_rng(0).normal(0, 0.05, 80)
    for own, other in (("linear", "log"), ("log", "linear")):
        gain = curve(d, 1.2, 0.5, own) + noise
        assert fit(d, gain, own).r2 > fit(d, gain, other).r2


def test_log_means_log_d_and_starts_at_zero():
    assert curve([0.0, 1.0, math.e], 2.0, 1.0, "log") == pytest.approx([0, 2, math.e])
    assert curve([0.0, 1.0, 2.0], 2.0, 0.5, "linear") == pytest.approx([0, 1.5, 2])


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="at least two different distances"):
        fit([0.0, 1.0, 1.0], [0.0, 1.0, 1.0], "log")
    with pytest.raises(ValueError, match="`shape` is 'cubic'"):
        curve([1.0], 1.0, 1.0, "cubic")


def test_a_kl_estimate_below_zero_is_no_distance():
    assert distance([-0.1, 0.0, 4.0]).tolist() == [0, 0, 2]


def test_smoothing_keeps_a_straight_line_inside_and_shortens_at_the_ends():
    x = np.arange(9.0)
    assert smooth(x, 5)[2:-2] == pytest.approx(x[2:-2])
    assert smooth(x, 5)[0] == pytest.approx(np.mean(x[:3]))
    assert smooth(x, 1).tolist() == x.tolist()
    with pytest.raises(ValueError, match="odd"):
        smooth(x, 4)


def test_gold_is_read_where_the_run_first_was_that_far():
    d, gold = [0.0, 1.0, 2.0, 1.0, 3.0], [0.0, 1.0, 2.0, -9.0, 1.0]
    assert at_distance(d, gold, 1.5) == 1.5  # not the way back, where gold was -9
    assert at_distance(d, gold, 2.5) == 1.5
    assert math.isnan(at_distance(d, gold, 3.1))


def test_best_of_n_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(1)
    score, gold = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    found = best_of_n(score, gold, (1, 2, 3, 6))
    for column, n in enumerate((1, 2, 3, 6)):
        for prompt in range(3):
            picked = [
                gold[prompt][max(subset, key=lambda i, p=prompt: score[p][i])]
                for subset in itertools.combinations(range(6), n)
            ]
            assert found[prompt, column] == pytest.approx(np.mean(picked))


def test_best_of_n_wants_as_many_answers():
    with pytest.raises(ValueError, match="each must be 1 to 4 answers"):
        best_of_n(np.zeros((2, 4)), np.zeros((2, 4)), (1, 8))
    with pytest.raises(ValueError, match="give two"):
        best_of_n(np.zeros(4), np.zeros(4), (1,))


def test_kl_of_best_of_n_is_that_of_the_maximum_of_uniform_numbers():
    """The rank u of the best of n has density n u^(n-1); its KL to the uniform one, integrated."""
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in (1, 2, 16):
        density = n * u ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx((density * np.log(density)).mean(), abs=1e-3)


def test_an_interval_over_three_seeds_is_student_s():
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    with pytest.raises(ValueError, match="leave out the missing"):
        over_seeds([1.0, math.nan])


def test_everything_public_is_tested_here():
    public = {
        n for n, f in vars(frontier).items() if getattr(f, "__module__", "") == frontier.__name__
    }
    assert {n for n in public if n[0] != "_"} - {"Fit"} <= set(globals())
