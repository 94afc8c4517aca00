"""The regression finds weights that made the choices; flaws are those that the shop put in."""

from random import Random

import numpy as np
import pandas as pd
import pytest

from chatlib.data import shop
from chatlib.evaluate import choices, errors


def drawn(weights, n, seed=0):
    """Differences of features, the chosen answer's first, of Bradley-Terry choices."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, size=(n, len(weights))).astype(float)
    first = rng.random(n) < 1 / (1 + np.exp(-x @ weights))
    return pd.DataFrame(np.where(first[:, None], x, -x), columns=list("abc"))


def test_the_weights_that_made_the_choices_are_found_within_their_intervals():
    true = np.array([-1.5, -0.2, 0.8])
    found, _ = choices.bradley_terry_weights(drawn(true, 20_000))
    assert np.abs(found - true).max() < 0.1
    fits = (choices.bradley_terry_weights(drawn(true, 500, seed)) for seed in range(40))
    tables = [choices.effects(*fit) for fit in fits]
    inside = sum(((t["low"] < true) & (true < t["high"])).sum() for t in tables)
    assert 105 <= inside <= 119  # of 120, 114 expected


def test_one_feature_is_the_logarithm_of_the_odds():
    three_to_one = pd.DataFrame({"a": [1.0] * 3 + [-1.0]})
    weights, covariance = choices.bradley_terry_weights(three_to_one)
    assert weights["a"] == pytest.approx(np.log(3))
    assert covariance.loc["a", "a"] == pytest.approx(1 / (4 * 0.75 * 0.25))


def test_the_effect_of_several_changes_at_once_counts_what_their_errors_share():
    weights = pd.Series({"a": -1.0, "b": -2.0})
    covariance = pd.DataFrame([[0.04, -0.04], [-0.04, 0.04]], ["a", "b"], ["a", "b"])
    both = choices.effects(weights, covariance, pd.DataFrame({"a": [1.0], "b": [1.0]}, ["both"]))
    assert both.loc["both"].tolist() == pytest.approx([-3, -3, -3])
    alone = choices.effects(weights, covariance)
    assert alone.loc["a"].tolist() == pytest.approx([-1, -1 - 1.96 * 0.2, -1 + 1.96 * 0.2])


def test_a_feature_that_orders_all_pairs_has_no_weight():
    with pytest.raises(ValueError, match="orders all pairs"):
        choices.bradley_terry_weights(pd.DataFrame({"a": [1.0] * 10}))


def test_flaws_are_those_that_the_shop_put_in():
    rng, stream = Random(3), shop.scenarios(3)
    made = [(s, *shop.answer(rng, s)) for s, _ in zip(stream, range(400))]
    verdicts = errors.judged([s.meta() for s, _, _ in made], [shop.plain(t) for _, t, _ in made])
    found = choices.flaws(verdicts)
    put = [set(decisions["flaws"]) for _, _, decisions in made]
    for column, flaw in (("rude line", "rude"), ("rambling", "rambling")):
        whole = [i for i, f in enumerate(put) if "cut_off" not in f]
        assert [bool(found.loc[i, column]) for i in whole] == [flaw in put[i] for i in whole]


def test_a_wrong_number_is_invented_and_its_fact_is_missing():
    case = next(s for s in shop.scenarios(0) if s.intent == "refund")
    texts = [
        f"You can return it within {case.facts['window']} days.",
        "You can return it within 88 days.",
    ]
    right, wrong = choices.flaws(errors.judged([case.meta()] * 2, texts)).to_dict("records")
    assert (right["invented fact"], right["facts missing"]) == (0, 0)
    assert (wrong["invented fact"], wrong["facts missing"]) == (1, 1)
