"""Policies on the other corpora: verdicts in a table, conversations run as one by one."""

from itertools import combinations, islice
from random import Random

import numpy as np
import pytest

from chatlib.data import appointments, tools, tutor
from chatlib.evaluate import uses

CASES = uses.scenarios("calendar", 60)


def by_plan(case):
    """A policy that makes the case's calls in their order and then says all that is required."""

    def answer(messages):
        made = sum(m["role"] == "assistant" for m in messages) - before
        return case.plan[made] if made < len(case.plan) else said

    before = sum(m["role"] == "assistant" for m in case.messages())
    facts = [case.facts[slot] for slot in appointments.REQUIRED[case.outcome]]
    said = f"It is {', '.join(facts)}." if facts else "I cannot help with that."
    return answer


def together(cases, policies, **options):
    """`uses.conversations` with a policy of its own for each case, told apart by their prompts."""
    known = {str(case.messages()): policy for case, policy in zip(cases, policies)}

    def ask(talks):
        return [
            next(p for text, p in known.items() if str(talk).startswith(text[:-1]))(talk)
            for talk in talks
        ]

    return uses.conversations(ask, cases, **options)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_many_conversations_are_each_that_of_converse(most):
    cases = list({str(case.messages()): case for case in CASES}.values())
    policies = [by_plan(case) for case in cases]
    found = together(cases, policies, most=most)
    for case, policy, (messages, calendar) in zip(cases, policies, found):
        wanted = tools.converse(policy, case.messages(), tools.calendar(case.entries), most)
        assert (messages, dict(calendar)) == (wanted[0], dict(wanted[1]))


def test_who_makes_the_right_calls_gets_everything_done_and_needs_them_for_it():
    table = uses.outcomes(CASES, together(CASES, [by_plan(case) for case in CASES]))
    right = table["calendar"]
    assert right.all() and (table["calls"] == [len(case.plan) for case in CASES]).all()
    without = uses.outcomes(CASES, together(CASES, [by_plan(case) for case in CASES], most=0))
    changed = [case.entries != case.wanted for case in CASES]
    assert (without["calendar"] == [not c for c in changed]).all() and any(changed)
    assert (table["done"] == (table["calendar"] & table["told"])).all()
    assert without["done"].mean() < table["done"].mean()


def test_a_broken_calculator_is_off_and_the_calendar_is_not():
    calendar = tools.calendar([("Monday", 9, "dentist")])
    reply = uses.off_by(7)
    assert reply(tools.Call("calculator", "20 + 22"), calendar)[0] == "result: 49"
    for call in (tools.Call("calendar", "list Monday"), tools.Call("calculator", "import os")):
        assert reply(call, calendar) == tools.run(call, calendar)


def test_verdicts_are_the_corpus_own():
    cases = list(islice(tutor.scenarios(1), 20))
    texts = [tutor.demonstration(Random(i), c).answer for i, c in enumerate(cases)]
    table = uses.judged("tutor", cases, texts)
    for case, text, (_, row) in zip(cases, texts, table.iterrows()):
        verdict = tutor.judge(case.meta(), text)
        assert (row["gold"], row["parts"]) == (verdict.total, verdict.parts)
        assert row["solved"] == tutor.check(case.meta(), text)
    assert "solved" not in uses.judged("shop", uses.scenarios("shop", 2), ["Hello.", "No."])


def test_scenarios_are_those_of_the_seed_and_kept_apart():
    assert uses.scenarios("tutor", 3) == uses.scenarios("tutor", 3)
    assert uses.scenarios("tutor", 3) != uses.scenarios("tutor", 3, held_out=True)


def test_solved_within_k_tries_is_the_mean_over_all_choices_of_k():
    solved = np.random.default_rng(0).random((5, 7)) < 0.3
    found = uses.solved_within(solved)
    for k in range(1, 6):
        choices = [solved[list(some)].any(0).mean() for some in combinations(range(5), k)]
        assert found[k - 1] == pytest.approx(np.mean(choices))
