"""Fitted scaling laws against laws that are known."""

import numpy as np
import pytest

from chatlib.evaluate import laws

N = np.repeat([2e4, 8e4, 3e5, 1.2e6], 4)
D = np.tile([1e5, 2.5e5, 6e5, 1.6e6], 4)
KNOWN = laws.Law(0.8, 0.2, 0.35, 0.3, 0.6, (1.2e6, 1.6e6))


def noisy(law, size, seed=0):
    return law(N, D) * (1 + size * np.random.default_rng(seed).standard_normal(len(N)))


def test_the_law_is_the_sum_of_its_terms():
    assert laws.Law(1.0, 2.0, 0.5, 3.0, 1.0, (4.0, 10.0))(1.0, 5.0) == 1 + 2 * 2 + 3 * 2


def test_a_known_law_is_found_again_without_noise():
    found = laws.fit(N, D, KNOWN(N, D))
    assert found[:5] == pytest.approx(KNOWN[:5], rel=0.02)
    assert laws.relative_error(found, N, D, KNOWN(N, D)) < 1e-3


def test_a_known_floor_is_kept_and_helps():
    y = noisy(KNOWN, 0.01)
    found = laws.fit(N, D, y, floor=0.8)
    assert found.E == 0.8 and found.alpha == pytest.approx(0.35, abs=0.1)


def test_intervals_cover_what_is_true_and_widen_with_the_noise():
    wide, narrow = (
        laws.middle([law.beta for law in laws.resampled(N, D, noisy(KNOWN, s), 60)])
        for s in (0.02, 0.002)
    )
    assert narrow[0] < KNOWN.beta < narrow[1] and wide[0] < KNOWN.beta < wide[1]
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_no_term_is_negative_where_size_does_not_help():
    """A larger model that is no better gets the coefficient 0, not a loss that rises."""
    found = laws.fit(N, D, laws.Law(1.0, 0.0, 0.5, 0.5, 0.5, (1.2e6, 1.6e6))(N, D))
    assert min(found.E, found.A, found.B) >= 0
    assert found(1e4, 1e5) == pytest.approx(found(1e6, 1e5), rel=0.01)


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="4 points for 5 unknowns"):
        laws.fit(N[:4], D[:4], KNOWN(N, D)[:4])
