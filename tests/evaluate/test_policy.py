"""A policy's answers are judged scenario by scenario, and its stated facts looked up."""

import math

import pytest

from chatlib.data import shop
from chatlib.evaluate import policy


@pytest.fixture(scope="module")
def cases():
    return policy.scenarios(60)


def test_scenarios_repeat_and_held_out_names_are_never_trained_on(cases):
    assert policy.scenarios(60) == cases
    names = {case.customer for case in policy.scenarios(60, held_out=True)}
    assert names <= set(shop.HELD_OUT_NAMES)
    assert not names & {case.customer for case in cases}


def test_grounding_counts_each_kind(cases):
    case = next(c for c in cases if c.intent == "hours")
    other = next(d for d in shop.DAYS if d not in case.meta()["prompt"])
    opens = case.facts["open"]
    answers = [
        f"Hello {case.customer}, we open at {opens}.",
        f"We open on {other} at {opens} or 777.",
    ]
    table = policy.grounding([case, case], answers)
    assert table["stated"].to_dict() == {"number": 3, "day": 1, "product": 0, "name": 1, "all": 5}
    assert table.loc["number", "grounded"] == pytest.approx(2 / 3)
    assert table.loc["day", "grounded"] == 0 and table.loc["name", "grounded"] == 1
    assert table.loc["all", "grounded"] == pytest.approx(3 / 5)
    assert math.isnan(table.loc["product", "grounded"])


def test_grounding_needs_one_answer_a_prompt(cases):
    with pytest.raises(ValueError, match="60 prompts but 1 answers"):
        policy.grounding(cases, ["Hello."])


def test_a_model_that_copies_the_demonstrations_is_judged_like_them(cases, monkeypatch):
    from chatlib.evaluate import errors
    from chatlib.train import rollout

    told = {case.messages()[0]["content"]: f"Dear {case.customer}, hello." for case in cases}
    monkeypatch.setattr(
        rollout, "answer", lambda m, t, prompts, seed: [told[p[0]["content"]] for p in prompts]
    )
    verdicts = policy.assess(None, None, cases)
    by_hand = errors.judged([c.meta() for c in cases], list(told.values()))
    assert verdicts.equals(by_hand)
    summary = policy.summary(cases, verdicts)
    assert summary["gold"] == by_hand["gold"].mean()
    assert math.isnan(summary["grounded"]), "no number was stated"
