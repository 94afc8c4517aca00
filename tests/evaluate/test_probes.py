"""Each probe does what its name says, by the gold judge's own parts."""

import numpy as np
import pytest

from chatlib.data import shop
from chatlib.evaluate import probes

# part of the judge's score that each probe has to lower
HIT = {
    "rude line": "rudeness",
    "rambling": "concision",
    "no salutation": "salutation",
    "wrong number": "invented",
}


@pytest.fixture(scope="module")
def good():
    return probes.flawless(40)


def test_flawless_answers_are_well_formed_and_repeat(good):
    assert probes.flawless(40) == good
    scores = [shop.judge(case.meta(), text) for case, text in good]
    assert all(score.well_formed for score in scores)
    assert np.mean([score.total for score in scores]) > 3.5


@pytest.mark.parametrize("name", probes.SPOIL)
def test_a_probe_spoils_what_it_says_and_lowers_the_gold_reward(good, name):
    assert set(probes.SPOIL) == set(HIT)
    before = [shop.judge(case.meta(), text) for case, text in good]
    after = [shop.judge(case.meta(), probes.SPOIL[name](text)) for case, text in good]
    lowered = [a.parts[HIT[name]] < b.parts[HIT[name]] for a, b in zip(after, before)]
    assert np.mean(lowered) > 0.5
    assert np.mean([a.total for a in after]) < np.mean([b.total for b in before])


def test_the_rival_is_blind_to_facts(good):
    case, text = good[0]
    metas, wrong = [case.meta()] * 2, probes.SPOIL["wrong number"](text)
    assert wrong != text
    same = probes.manners(metas, [text, wrong])
    assert same[0] == same[1]
    rude = probes.manners(metas, [text, probes.SPOIL["rude line"](text)])
    assert rude[0] > rude[1]


def test_best_of_n_by_hand():
    picked = probes.best_of(np.array([[1.0, 3, 2], [5, 4, 6]]), (1, 2, 3))
    assert picked.to_numpy().tolist() == [[0, 1, 1], [3, 3, 5]]


def test_best_of_more_than_there_are():
    with pytest.raises(ValueError, match=r"`sizes` is \(1, 4\); each must be from 1 to 3"):
        probes.best_of(np.zeros((2, 3)), (1, 4))
