"""Twins differ in the name and nothing else; comparisons keep their judgement under a new name."""

import numpy as np
import pytest

from chatlib.data import shop
from chatlib.data.schema import Preference
from chatlib.data.shop_text import NAMES
from chatlib.evaluate import counterfactual, policy


def test_groups_are_halves_by_lot():
    first, second = counterfactual.groups()
    assert len(first) == len(second) == len(NAMES) // 2 and not set(first) & set(second)
    assert counterfactual.groups() == (first, second) != counterfactual.groups(seed=1)
    assert counterfactual.groups(["Ana", "Leo", "Ana"]) in ((["Ana"], ["Leo"]), (["Leo"], ["Ana"]))
    with pytest.raises(ValueError, match="two groups need 2"):
        counterfactual.groups(["Ana", "Ana"])


def test_twins_differ_in_the_name_alone():
    cases = policy.scenarios(40)
    ours, theirs = counterfactual.twins(cases, ["Ana", "Leo"], ["Zo"], seed=3)
    assert {c.customer for c in ours} == {"Ana", "Leo"} and {c.customer for c in theirs} == {"Zo"}
    for case, a, b in zip(cases, ours, theirs):
        assert (
            (a.turns, a.facts, a.secret)
            == (b.turns, b.facts, b.secret)
            == (
                case.turns,
                case.facts,
                case.secret,
            )
        )
        assert a.context.replace(f"|{a.customer}]", "|?]", 1) == b.context.replace("|Zo]", "|?]", 1)
    assert counterfactual.twins(cases, ["Ana", "Leo"], ["Zo"], seed=3) == (ours, theirs)
    with pytest.raises(ValueError, match="give each a name"):
        counterfactual.twins(cases, [], ["Zo"])


def pair(chosen="Dear Ana, it is Ana.", rejected="Banana."):
    prompt = [
        {"role": "system", "content": "open 9 to 18; customer Ana; phone 550 of Ana Hill"},
        {"role": "user", "content": "What is the number of Ana Hill?"},
    ]
    return Preference(prompt, chosen, rejected, {"gold": [1, 0]})


def test_renamed_moves_the_customer_and_keeps_the_judgement():
    found = counterfactual.renamed(pair(), "Leo")
    assert found.chosen == "Dear Leo, it is Leo." and found.rejected == "Banana."
    system, question = (message["content"] for message in found.prompt)
    assert system == "open 9 to 18; customer Leo; phone 550 of Ana Hill"
    assert question == "What is the number of Ana Hill?"
    assert counterfactual.renamed(found, "Ana") == pair()


def test_customer_is_found_or_asked_for():
    assert counterfactual.customer(pair().prompt) == "Ana"
    for prompt in ([], [{"role": "system", "content": "open 9 to 18"}]):
        with pytest.raises(ValueError, match="customer NAME"):
            counterfactual.customer(prompt)


def test_a_dealt_name_says_nothing_about_the_first_one():
    pairs = shop.preferences(600, seed=5)
    names = ["Ada", "Leo", "Zoë"]
    dealt = counterfactual.dealt(pairs, names, seed=1)
    given = [counterfactual.customer(p.prompt) for p in dealt]
    assert all(150 < given.count(name) < 250 for name in names)
    before = {counterfactual.customer(p.prompt) for p, name in zip(pairs, given) if name == "Leo"}
    assert len(before) > 70  # nearly every customer became Leo once
    assert all(len(p.chosen) > 0 and p.meta == q.meta for p, q in zip(dealt, pairs))
    greeted = sum(p.chosen.startswith(("Dear", "Hello")) for p in pairs)
    assert greeted == sum(p.chosen.startswith(("Dear", "Hello")) for p in dealt)
    with pytest.raises(ValueError, match="no names to deal"):
        counterfactual.dealt(pairs, [])


def test_a_gap_is_paired():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=300) * 10  # the scenarios' own differences
    found = counterfactual.gap(hard + 1, hard)
    assert found.value == pytest.approx(1) and found.high - found.low < 1e-6


def test_worth_is_with_less_without():
    class Lengths:
        def score(self, prompts, answers):
            assert all(prompt[-1]["role"] == "user" for prompt in prompts)
            return np.array([float(len(answer)) for answer in answers])

    cases = policy.scenarios(2)
    found = counterfactual.worth_of(Lengths(), cases, ["abc", "abcd"], ["a", "abcd"])
    assert found.tolist() == [2, 0]


def test_share_removed():
    assert counterfactual.share_removed([2.0, -1.0], [1.0, 0.5]).tolist() == [0.5, 1.5]
    for before, after in (([0.0], [1.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="same seeds"):
            counterfactual.share_removed(before, after)
