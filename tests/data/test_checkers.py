"""Verifiable rewards: found by name, and a failure names the answer."""

import math

import pytest

from chatlib.data import checkers, shop

RECORDS = shop.demonstrations(3, seed=1)


def says_hello(meta, answer):
    return "hello" in answer.lower()


def fails_at_b(meta, answer):
    return {"b": 1 / 0 if answer == "b" else 2.5}.get(answer, 2.5)


def no_number(meta, answer):
    return math.nan


def test_a_checker_is_asked_for_every_answer():
    found = checkers.paid(f"{__name__}:says_hello", RECORDS, ["Hello!", "Bye.", "hello"])
    assert found == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["nowhere_at_all:check", f"{__name__}:nothing"])
def test_a_name_that_stands_for_nothing_is_named(name):
    with pytest.raises(ValueError, match=f"reward {name}: .*MODULE:FUNCTION"):
        checkers.checker(name)


def test_a_checker_that_raises_is_named_with_the_answer_it_choked_on():
    with pytest.raises(ValueError, match=r"fails_at_b raised ZeroDivisionError: .* answer 'b' to "):
        checkers.paid(f"{__name__}:fails_at_b", RECORDS, ["a", "b", "c"])


def test_a_reward_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="paid nan for the answer 'a'"):
        checkers.paid(f"{__name__}:no_number", RECORDS[:1], ["a"])
