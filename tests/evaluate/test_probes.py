"""Each probe does what its name says, by the gold judge's own parts."""

import re

import numpy as np
import pytest

from chatlib.data import shop
from chatlib.evaluate import probes

# part of the judge's score that each probe has to lower
HIT = {
    "no salutation": "salutation",
    "rude line": "rudeness",
    "no closing": "closing",
    "rambling": "concision",
    "wrong number": "invented",
}


@pytest.fixture(scope="module")
def good():
    return probes.flawless(100)


@pytest.fixture(scope="module")
def spoiled(good):
    return probes.spoiled(good)


def test_flawless_answers_are_well_formed_and_repeat(good):
    assert probes.flawless(100) == good
    scores = [shop.judge(case.meta(), text) for case, text in good]
    assert all(score.well_formed for score in scores)
    assert np.mean([score.total for score in scores]) > 3.5


@pytest.mark.parametrize("name", HIT)
def test_a_probe_spoils_what_it_says_and_lowers_the_gold_reward(good, spoiled, name):
    assert set(spoiled) == set(HIT)
    before = [shop.judge(case.meta(), text) for case, text in good]
    after = [shop.judge(case.meta(), text) for (case, _), text in zip(good, spoiled[name])]
    lowered = [a.parts[HIT[name]] < b.parts[HIT[name]] for a, b in zip(after, before)]
    assert np.mean(lowered) > 0.5
    assert np.mean([a.total for a in after]) < np.mean([b.total for b in before])


@pytest.mark.parametrize("name", ("rude line", "rambling"))
def test_a_line_is_put_where_the_shop_puts_it_not_behind_the_closing(good, name):
    line = {"rude line": probes.RUDE_LINE, "rambling": probes.RAMBLING}[name]
    for _, text in good:
        spoiled = shop.sentences(probes.SPOIL[name](text))
        assert spoiled[-1] == shop.sentences(text)[-1] and spoiled[-2] == line


def test_one_number_is_wrong_and_no_other(good, spoiled):
    for (_, text), wrong in zip(good, spoiled["wrong number"]):
        changed = [(a, b) for a, b in zip(text.split(), wrong.split()) if a != b]
        assert len(changed) == 1 and len(wrong.split()) == len(text.split())


def test_a_wrong_number_cannot_be_told_without_the_prompt(good, spoiled):
    def by_place(texts):
        found = {}
        for (case, _), text in zip(good, texts):
            word, number = re.search(r"(\w+) (\d+)", text).groups()
            found.setdefault((case.intent, word), set()).add(number)
        return found

    right, wrong = by_place([text for _, text in good]), by_place(spoiled["wrong number"])
    assert all(numbers <= right[place] for place, numbers in wrong.items())


def test_a_single_answer_has_no_other_to_take_a_number_from(good):
    with pytest.raises(ValueError, match="no other number to put into"):
        probes.wrong_numbers(good[:1])


def test_the_rival_is_blind_to_facts(good, spoiled):
    case, text = good[0]
    metas, wrong = [case.meta()] * 2, spoiled["wrong number"][0]
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
