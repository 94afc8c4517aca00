"""Each kind of new words changes what it says and nothing else, and the scenario stays sound."""

from itertools import islice
from random import Random

import pytest

from chatlib.data import shop
from chatlib.data.shop_text import HELD_OUT_NAMES, HELD_OUT_QUESTIONS, NAMES, QUESTIONS
from chatlib.evaluate import novelty

CASES = list(islice(shop.scenarios(8), 150))


def test_nothing_asked_nothing_changed():
    assert novelty.renewed(CASES, ()) == CASES


def test_new_names_change_the_customer_only():
    for old, new in zip(CASES, novelty.renewed(CASES, ["names"])):
        assert new.customer in HELD_OUT_NAMES
        assert f"customer {new.customer}" in new.messages()[0]["content"]
        assert new.context.replace(new.customer, old.customer, 1) == old.context
        assert (new.turns, new.facts, new.secret) == (old.turns, old.facts, old.secret)


def test_new_phrasings_change_the_question_only():
    known = {text for texts in QUESTIONS.values() for text in texts}
    for old, new in zip(CASES, novelty.renewed(CASES, ["phrasings"])):
        assert (new.context, new.facts, new.customer) == (old.context, old.facts, old.customer)
        assert len(new.turns) == len(old.turns)
        assert new.turns != old.turns
        assert "{" not in "".join(new.turns)
    assert not known & {text for texts in HELD_OUT_QUESTIONS.values() for text in texts}


def test_new_products_are_held_out_and_the_same_everywhere():
    for old, new in zip(CASES, novelty.renewed(CASES, ["products"])):
        assert new.facts["product"] in novelty.HELD_OUT_PRODUCTS
        assert new.customer == old.customer
        before, after = (" ".join((c.context, *c.turns)) for c in (old, new))
        assert before.count(old.facts["product"]) == after.count(new.facts["product"])
        assert not any(p in after for p in ("{", old.facts["product"]))


def test_a_correct_answer_stays_correct():
    for case in novelty.renewed(CASES, novelty.WORDS):
        keys = shop.REQUIRED[case.intent]
        text = " ".join(case.facts[key] for key in keys)
        assert not any(shop.unsupported(case.meta(), text).values()), (case, text)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no kind of words"):
        novelty.renewed(CASES, ["colours"])


def test_invented_names_are_nobodys():
    names = {novelty.invented_name(Random(i)) for i in range(500)}
    assert len(names) > 400
    assert not names & {*NAMES, *HELD_OUT_NAMES}
