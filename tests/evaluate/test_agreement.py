import pandas as pd
import pytest

from chatlib.evaluate import agreement

GOLD = [1.0, 2.0, 3.0, 4.0]


def test_same_order_is_one_reversed_is_minus_one():
    table = agreement.correlations(pd.DataFrame({"up": [1, 4, 9, 16], "down": [3, 2, 1, 0]}), GOLD)
    assert table.loc["up", ["rho", "tau"]].tolist() == pytest.approx([1, 1])
    assert table.loc["down", ["rho", "tau"]].tolist() == pytest.approx([-1, -1])


def test_kendall_by_hand():
    """One of six pairs is in the wrong order: (5 - 1) / 6."""
    table = agreement.correlations(pd.DataFrame({"m": [1, 3, 2, 4]}), GOLD)
    assert table.loc["m", "tau"] == pytest.approx(4 / 6)


def test_a_constant_metric_has_no_correlation():
    table = agreement.correlations(pd.DataFrame({"m": [7, 7, 7, 7]}), GOLD)
    assert table.loc["m", ["rho", "tau"]].isna().all()


def test_pairwise_counts_half_for_ties_and_leaves_out_what_the_judge_ties():
    """agrees, disagrees, metric ties, judge ties"""
    found = agreement.pairwise([2, 1, 5, 9], [1, 2, 5, 0], [1, 1, 1, 1], [0, 0, 0, 1])
    assert found.value == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.n == 3


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="2 answers but 1 gold scores"):
        agreement.correlations(pd.DataFrame({"m": [1, 2]}), [1.0])


def test_pairs_that_the_judge_all_ties_are_refused():
    with pytest.raises(ValueError, match="the judge orders 0 of 2 pairs"):
        agreement.pairwise([1, 2], [2, 1], [0, 0], [0, 0])
