"""The assistant with tools: plans that work, a judge in agreement with a person, masked results."""

import json
import time
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import appointments, appointments_text, template, tools
from chatlib.data.appointments import Scenario
from chatlib.data.shop_text import DAYS


def some(n, seed=0, held_out=False):
    """The first scenarios of a stream."""
    return list(islice(appointments.scenarios(seed, held_out), n))


DEMONSTRATIONS = appointments.demonstrations(3000, 7)


# ---------------------------------------------------------------------- the corpus
def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    for make in (appointments.demonstrations, appointments.preferences):
        assert make(50, 3) == make(50, 3)
        assert make(50, 3) != make(50, 4)
    results = [list(islice(appointments.after_results(seed), 50)) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_a_shorter_corpus_is_the_beginning_of_a_longer_one():
    assert appointments.demonstrations(20, 1) == appointments.demonstrations(60, 1)[:20]


@pytest.mark.timeout(60)
def test_five_thousand_dialogues_in_seconds_and_hardly_two_alike():
    began = time.process_time()
    dialogues = appointments.demonstrations(5000)
    assert time.process_time() - began < 15
    assert len({tuple(m["content"] for m in d.messages) for d in dialogues}) > 4990


def test_every_task_is_as_frequent_as_any_other_and_every_outcome_comes():
    drawn = some(4500)
    tasks = [s.task for s in drawn]
    assert {min(400, tasks.count(task)) for task in appointments.TASKS} == {400}
    outcomes = [s.outcome for s in drawn]
    assert set(outcomes) == set(appointments.REQUIRED) == set(appointments_text.ANSWERS)
    assert all(outcomes.count(outcome) > 100 for outcome in appointments.REQUIRED)


def test_qualities_are_mixed_as_stated():
    qualities = [d.meta["quality"] for d in DEMONSTRATIONS]
    for name, share in appointments.QUALITIES.items():
        assert abs(qualities.count(name) / len(qualities) - share) < 0.04


@pytest.mark.parametrize("held_out", [False, True])
def test_a_request_comes_last_and_shows_only_other_days_than_the_one_asked_about(held_out):
    for s in some(500, 1, held_out):
        roles = [m["role"] for m in s.messages()]
        assert roles == ["system", "user"]
        shown = s.turns[0][1]
        assert all(f"{name} on {day} at {hour}" in shown for day, hour, name in _shown(s))
        assert len(_shown(s)) == 3 and shown.startswith(f"today {s.today}; ")
        if s.task in ("add", "move", "list", "free"):
            assert f" on {s.facts['day']} at " not in shown


def _shown(s):
    return [e for e in s.entries if f"{e[2]} on" in s.turns[0][1]]


def test_today_and_tomorrow_mean_the_day_of_the_plan():
    found = set()
    for s in some(1500):
        for word, ahead in (("today", 0), ("tomorrow", 1)):
            if word in s.turns[1][1].lower():
                assert DAYS.index(s.facts["day"]) == (DAYS.index(s.today) + ahead) % 7
                found.add((word, s.task))
    assert {task for _, task in found} >= {"add", "move", "list", "free"}


# ---------------------------------------------------------------------------- plans
def converse(s: Scenario, *texts):
    """The conversation of a policy that says these texts."""
    left = iter(texts)
    return tools.converse(lambda m: next(left), s.messages(), tools.calendar(s.entries))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_plan_leads_to_what_was_wanted_and_its_answer_to_the_best_score(held_out):
    for s in some(600, 2, held_out):
        answer = appointments.turn(Random(0), appointments.Scenario(**_made(s)), frozenset())
        messages, after = converse(s, *s.plan, answer)
        assert after == tools.calendar(s.wanted)
        for meta in (s.meta(), appointments.Scenario(**_made(s)).meta()):
            score = appointments.judge_conversation(meta, messages, after)
            assert score.total == pytest.approx(6.0), (messages, score)
            assert score.well_formed


def _made(s):
    """The fields of a scenario whose whole plan has been made."""
    for call in s.plan:
        s = s.after(call)
    return vars(s)


def test_plans_by_hand():
    """An independent reading of what each task should do to a calendar."""
    for s in some(800, 3):
        before, wanted = set(s.entries), set(s.wanted)
        name, slot = s.facts["name"], (s.facts["day"], int(s.facts["hour"]))
        old = {e for e in before if e[2] == name}
        if s.outcome == "added":
            assert wanted - before == {(*slot, name)} and not before - wanted
        elif s.outcome == "moved":
            assert wanted - before == {(*slot, name)} and before - wanted == old
        elif s.outcome == "removed":
            assert before - wanted == old and not wanted - before
        else:
            assert before == wanted
        there = [e for e in before if e[:2] == slot]
        assert (s.outcome in ("taken", "busy")) == (
            s.task in ("add", "move", "free") and bool(there)
        )


def test_after_a_result_the_prompt_ends_with_the_tool_and_the_meta_moves_along():
    middle = 0
    for s in islice(appointments.after_results(4), 600):
        role, text = s.turns[-1]
        assert role == "system" and text.startswith(("result: ", "error: "))
        assert s.meta()["done"] == s.done == sum(r == "assistant" for r, _ in s.turns)
        assert s.meta()["entries"] == [list(e) for e in s.entries]
        middle += s.due is not None
    assert 10 < middle < 150  # a move, half done


def test_a_call_that_is_not_due_is_run_and_does_not_count():
    s = next(s for s in some(100) if s.task == "list")
    off = s.after("call calendar: add nap on Sunday at 0")
    assert ("Sunday", 0, "nap") in off.entries and off.done == 0 and off.due == s.due


def test_what_is_no_call_has_no_result():
    s = next(s for s in some(100) if s.task == "when")
    with pytest.raises(ValueError, match=r"`after` was given 'Hello\.', which is no call"):
        s.after("Hello.")
    with pytest.raises(ValueError, match=r"'when' with no call due; give another task"):
        appointments.after_result(Random(0), s)


# ------------------------------------------------------------------------- held out
def test_held_out_names_hours_and_phrasings_are_never_trained_on():
    def parts(held_out):
        drawn = some(2500, 0, held_out)
        entries = {e for s in drawn for e in (*s.entries, *s.wanted)}
        named = {e[2] for e in entries}
        texts = {w for s in drawn for _, t in s.turns for w in t.lower().replace(",", "").split()}
        phrasings = {p for s in drawn for p in _phrasings(s)}
        return named, {e[:2] for e in entries}, phrasings, texts

    trained, kept = parts(False), parts(True)
    for one, other in zip(trained[:3], kept[:3]):
        assert one and other and not one & other
    assert not trained[3] & set(appointments_text.HELD_OUT_APPOINTMENTS)
    assert not kept[3] & set(appointments_text.APPOINTMENTS)


def _phrasings(s):
    for table in (appointments_text.REQUESTS, appointments_text.HELD_OUT_REQUESTS):
        for phrase in table[s.task]:
            said = phrase.format(**s.facts)
            if said[:1].upper() + said[1:] == s.turns[1][1]:
                yield phrase


def test_answers_to_training_scenarios_name_no_held_out_appointment():
    said = {w for d in DEMONSTRATIONS for m in d.messages for w in m["content"].lower().split()}
    assert not said & set(appointments_text.HELD_OUT_APPOINTMENTS)


def test_lists_of_trained_and_held_out_words_do_not_overlap():
    text = appointments_text
    assert not set(text.APPOINTMENTS) & set(text.HELD_OUT_APPOINTMENTS)
    for task in appointments.TASKS:
        assert text.HELD_OUT_REQUESTS[task]
        assert not set(text.REQUESTS[task]) & set(text.HELD_OUT_REQUESTS[task])


def test_every_word_of_an_answer_has_a_class():
    spoken = [m["content"] for d in DEMONSTRATIONS for m in d.messages if m["role"] == "assistant"]
    words = {w for t in spoken if not tools.parse(t) for w in appointments.shop.words(t)}
    assert {w for w in words if appointments.word_class(w) == "?"} == set()


# -------------------------------------------------------------------------- the judge
def meta(outcome, required, allowed, plan=(), done=0, entries=(), wanted=None, past=""):
    """A meta by hand; today is Monday."""
    return {
        "corpus": "calendar",
        "task": outcome,
        "outcome": outcome,
        "today": "Monday",
        "past": past,
        "required": list(required),
        "allowed": [*allowed, *(word for part in required for word in part.split())],
        "plan": list(plan),
        "done": done,
        "entries": list(entries),
        "wanted": list(entries if wanted is None else wanted),
    }


DENTIST = ("Tuesday", 9, "dentist")
ADD = "call calendar: add yoga on Friday at 10"
ADDING = meta(
    "added", ["yoga", "Friday", "10"], [], [ADD], 0, [DENTIST], [DENTIST, ("Friday", 10, "yoga")]
)
MOVED = "call calendar: add dentist on Friday at 10", "call calendar: remove Tuesday at 9"
MOVING = meta(
    "moved",
    ["dentist", "Friday", "10"],
    [],
    MOVED,
    0,
    [DENTIST],
    [("Friday", 10, "dentist")],
    "Tuesday at 9",
)
HALF = {**MOVING, "done": 1, "entries": [DENTIST, ("Friday", 10, "dentist")]}
SUM = meta("counted", ["75"], ["yoga", "dentist", "30", "45"], ["call calculator: 30 + 45"])
LISTING = meta("listed", ["Friday", "yoga 10", "lunch 14"], [], ["call calendar: list Friday"])
FREE = meta("free", ["Friday"], ["10"], ["call calendar: list Friday"])
BUSY = meta("busy", ["yoga"], ["Friday", "10"], ["call calendar: list Friday"])
TAKEN = meta("taken", ["Friday", "10", "choir"], ["yoga"], [ADD], 1)
WHEN = meta("when", ["Tuesday", "9"], ["dentist"], entries=[DENTIST])
OUT = meta("out_of_scope", [], [])
REMOVING = meta(
    "removed",
    ["dentist"],
    ["Tuesday", "9"],
    ["call calendar: remove Tuesday at 9"],
    0,
    [DENTIST],
    [],
)
NOTHING = meta("nothing", ["Friday"], [], ["call calendar: list Friday"])


def made(of):
    """The meta once all calls are made."""
    return {**of, "done": len(of["plan"]), "entries": of["wanted"]}


# Each list stands in the order in which a person would rank the turns, best first.
RANKED = {
    "a call that adds": (
        ADDING,
        [
            ADD,
            "call calendar: list Friday",
            "call calendar: add yoga Friday 10",
            "call calendar: add yoga on Saturday at 10",
        ],
    ),
    "no call": (
        ADDING,
        [
            ADD,
            "call diary: add yoga on Friday at 10",
            "I cannot do that.",
            "I added yoga on Friday at 10. Is there anything else?",
            "You should know that. I added yoga on Friday at 10.",
        ],
    ),
    "a call within other words is none": (
        ADDING,
        [ADD, "Sure. call calendar: add yoga on Friday at 10"],
    ),
    "a call with words after it cannot be read": (ADDING, [ADD, ADD + ". Have a nice day."]),
    "another name is another appointment": (
        ADDING,
        [ADD, "call calendar: list Friday", "call calendar: add lunch on Friday at 10"],
    ),
    "moving: the new hour first, so that a taken one costs nothing": (
        MOVING,
        [MOVED[0], "call calendar: list Friday", MOVED[1], "I moved dentist to Friday at 10."],
    ),
    "half moved": (
        HALF,
        [
            MOVED[1],
            "call calendar: remove Tuesday at 8",
            "call calendar: remove Tuesday 9",
            "call calendar: remove Friday at 10",
        ],
    ),
    "moved": (
        made(MOVING),
        [
            "Certainly. I moved dentist from Tuesday at 9 to Friday at 10. Have a nice day.",
            "Your dentist is now on Friday at 10.",
            "I moved dentist to Friday.",
            "I moved dentist from Friday at 10 to Tuesday at 9.",
        ],
    ),
    "removing": (
        REMOVING,
        [
            "call calendar: remove Tuesday at 9",
            "call calendar: list Tuesday",
            "Dentist is cancelled.",
        ],
    ),
    "removed": (
        made(REMOVING),
        [
            "Gladly. Dentist on Tuesday is cancelled. Is there anything else?",
            "I removed dentist from Tuesday.",
            "I removed it.",
            "I removed choir from Sunday.",
        ],
    ),
    "a sum": (
        SUM,
        [
            "call calculator: 30 + 45",
            "call calculator: 30 - 45",
            "call calculator: 30 and 45",
            "That is 75 minutes.",
        ],
    ),
    "a sum told": (
        made(SUM),
        [
            "Of course. That is 75 minutes. Is there anything else?",
            "Yoga is 30 minutes and dentist is 45 minutes, so together it is 75 minutes.",
            "It takes long.",
            "That is 80 minutes.",
        ],
    ),
    "manners": (
        made(SUM),
        [
            "Of course. That is 75 minutes. Have a nice day.",
            "Of course. That is 75 minutes.",
            "That is 75 minutes.",
            "You should know that. That is 75 minutes.",
        ],
    ),
    "a day with two appointments": (
        made(LISTING),
        [
            "Gladly. On Friday you have yoga at 10 and lunch at 14. Is there anything else?",
            "You have two appointments on Friday: yoga at 10 and lunch at 14.",
            "On Friday you have yoga at 10.",
            "On Friday you have yoga at 14 and lunch at 10.",
            "On Sunday you have choir at 11.",
        ],
    ),
    "the day's line in other forms": (
        made(LISTING),
        [
            "Of course. You have yoga at 10:00 and lunch at 14:00 on Friday. Have a nice day.",
            "There is yoga at 10 on Friday, and lunch at 14.",
            "Nothing is planned on Friday.",
        ],
    ),
    "an empty day": (
        made(NOTHING),
        [
            "Certainly. Nothing is planned on Friday. Have a nice day.",
            "You have no appointments on Friday.",
            "On Friday you have yoga at 10.",
        ],
    ),
    "free": (
        made(FREE),
        [
            "Of course. Yes, Friday at 10 is free. Is there anything else?",
            "Yes, you are free on Friday.",
            "You have yoga on Friday at 10.",
            "No, Friday at 10 is taken by yoga.",
        ],
    ),
    "not free": (
        made(BUSY),
        [
            "Certainly. No, Friday at 10 is taken by yoga. Have a nice day.",
            "No, you have yoga on Friday at 10.",
            "No, Friday at 10 is not free.",
            "Yes, you are free on Friday at 10.",
        ],
    ),
    "the hour is taken": (
        TAKEN,
        [
            "Sorry. Friday at 10 is taken by choir. Is there anything else?",
            "You already have choir on Friday at 10.",
            "Sorry, that hour is taken.",
            "I added yoga on Friday at 10. Have a nice day.",
        ],
    ),
    "what the prompt shows needs no call": (
        WHEN,
        [
            "Gladly. Dentist is on Tuesday at 9. Is there anything else?",
            "You have dentist tomorrow at 9.",
            "Dentist is on Tuesday.",
            "call calendar: list Tuesday",
            "call calendar: when is dentist",
            "call calendar: remove Tuesday at 9",
        ],
    ),
    "out of scope": (
        OUT,
        [
            "Sorry. I can only help with the calendar. Have a nice day.",
            "I cannot do that, I only know the calendar.",
            "That is obvious. I cannot do that.",
            "That is obvious.",
        ],
    ),
    "a wrong refusal": (
        made(SUM),
        ["That is 75 minutes.", "Have a nice day.", "I am not able to help with that."],
    ),
    "rambling": (
        made(SUM),
        [
            "That is 75 minutes.",
            "That is 75 minutes. A good plan saves a lot of time. Many people forget such things. "
            "It is always good to plan ahead. I keep all of it in one place.",
        ],
    ),
    "unfinished and repeated": (
        made(SUM),
        [
            "That is 75 minutes.",
            "That is 75 minutes. That is 75 minutes.",
            "75 75 75 minutes minutes",
        ],
    ),
    "word salad": (
        made(LISTING),
        [
            "On Friday you have yoga at 10 and lunch at 14.",
            "On Friday you have yoga at 10.",
            "Friday yoga 10 lunch 14 sorry anything else.",
        ],
    ),
    "closings do not add up": (
        made(SUM),
        [
            "That is 75 minutes. Have a nice day.",
            "That is 75 minutes. Have a nice day. Is there anything else?",
            "Have a nice day. Is there anything else?",
        ],
    ),
}
TURNS = [(name, facts, text) for name, (facts, texts) in RANKED.items() for text in texts]


def test_there_are_enough_cases_by_hand():
    assert len(TURNS) >= 80 and len(RANKED) >= 25


@pytest.mark.parametrize("name", RANKED)
def test_the_judge_ranks_turns_as_a_person_would(name):
    facts, texts = RANKED[name]
    totals = [appointments.judge(facts, text).total for text in texts]
    for (better, high), (worse, low) in pairwise(zip(texts, totals)):
        assert high > low, f"{high:.2f} for {better!r} but {low:.2f} for {worse!r}"


# Of the lists above: how many turns, from the best on, are right, manners aside.
RIGHT = {
    "moved": 2,
    "removed": 2,
    "a sum told": 2,
    "manners": 4,
    "a day with two appointments": 2,
    "the day's line in other forms": 2,
    "an empty day": 2,
    "free": 2,
    "not free": 2,
    "the hour is taken": 2,
    "what the prompt shows needs no call": 2,
    "out of scope": 3,
    "rambling": 2,
    "unfinished and repeated": 3,
    "closings do not add up": 2,
}


@pytest.mark.parametrize("name", RANKED)
def test_what_is_right_manners_aside(name):
    facts, texts = RANKED[name]
    right = [appointments.check(facts, text) for text in texts]
    n = RIGHT.get(name, 1)
    salad = name == "word salad"  # true, if no sentence: `well_formed` and the judge see to that
    assert right == [True] * n + [False] * (len(texts) - n - salad) + [True] * salad


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("call calculator: 45 + 30", True),
        ("call calculator: 30+45", True),
        ("call calculator: 75 + 0", False),
        ("call calculator: 30 * 45", False),
        ("call calculator: 30 - 45", False),
        ("call calendar: 30 + 45", False),
        ("30 + 45", False),
    ],
)
def test_which_sums_are_the_same_call(text, same):
    assert appointments.same_call(text, "call calculator: 30 + 45") is same


def test_the_order_of_a_difference_is_not_free():
    assert not appointments.same_call("call calculator: 3 - 4", "call calculator: 4 - 3")
    assert not appointments.same_call("call calculator: 3 - 4", None)


def test_the_best_turns_score_four_and_the_parts_add_up():
    for facts, texts in RANKED.values():
        for text in texts:
            score = appointments.judge(facts, text)
            assert score.total == pytest.approx(sum(score.parts.values()))
            assert score.total <= 4.0
    for name in ("a call that adds", "a sum told", "moved", "out of scope", "free"):
        facts, texts = RANKED[name]
        assert appointments.judge(facts, texts[0]).total == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (ADD, True),
        ("call calendar: list Sunday", True),
        ("call calendar: list", False),
        ("That is 75 minutes.", True),
        ("that is 75 minutes.", False),
        ("That is 75 minutes", False),
        ("That is is is 75 minutes.", False),
        ("", False),
    ],
)
def test_which_turns_have_the_right_form(text, form):
    assert appointments.well_formed(text) is form


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=120) | st.text(max_size=60).map("call calendar: {}".format))
def test_no_text_breaks_the_judge_beats_four_or_is_right_by_chance(text):
    for facts in (ADDING, made(LISTING), OUT):
        assert appointments.judge(facts, text).total <= 4.0
    assert not appointments.check(ADDING, text)
    assert not appointments.check(made(LISTING), text)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_shuffled_words_of_a_good_answer_never_score_higher(seed):
    good = RANKED["a day with two appointments"][1][0]
    words = good.split()
    Random(seed).shuffle(words)
    low, high = (appointments.judge(made(LISTING), t).total for t in (" ".join(words), good))
    assert low < high - 1 or words == good.split()


# -------------------------------------------------------------- whole conversations
def test_conversations_are_ranked_as_a_person_would():
    said = "Gladly. I added yoga on Friday at 10. Is there anything else?"
    ranked = [
        (ADD, said),
        ("call calendar: add yoga Friday 10", ADD, said),
        (ADD, "I added yoga on Friday at 10."),
        (ADD, "I cannot do that."),
        (said,),
        ("call calendar: add yoga on Sunday at 10", said),
        ("call calendar: add yoga on Sunday at 10", "You should know that."),
    ]
    totals = []
    for texts in ranked:
        left = iter(texts)
        start = tools.calendar(ADDING["entries"])
        end = tools.converse(lambda m, left=left: next(left), [], start)
        totals.append(appointments.judge_conversation(ADDING, *end).total)
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == len(totals)
    assert totals[0] == pytest.approx(6.0)


def test_a_conversation_that_ends_in_a_call_has_told_nothing():
    end = tools.converse(lambda m: ADD, [], tools.calendar([DENTIST]), most=0)
    score = appointments.judge_conversation(ADDING, *end)
    assert score.parts["facts"] == 0 and score.parts["unfinished"] == -1
    assert score.parts["calendar"] == -2  # its call was not run


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40) | st.sampled_from([ADD, *MOVED]), min_size=4, max_size=4))
def test_no_conversation_breaks_the_judge_or_beats_six(texts):
    left = iter(texts)
    end = tools.converse(lambda m: next(left), [], tools.calendar([DENTIST]))
    assert appointments.judge_conversation(ADDING, *end).total <= 6.0


# ------------------------------------------------------------------------- records
def test_demonstrations_of_better_quality_score_higher():
    totals = {quality: [] for quality in appointments.QUALITIES}
    for d in DEMONSTRATIONS:
        totals[d.meta["quality"]].append(appointments.judge(d.meta, d.answer).total)
    good, middling, bad = (sum(t) / len(t) for t in totals.values())
    assert good > middling + 0.5 > bad + 1.0
    assert good > 3.5


def test_a_dialogue_without_flaws_is_right_at_every_turn():
    for d in DEMONSTRATIONS:
        if not d.meta["flaws"]:
            assert appointments.check(d.meta, d.answer), d.messages
            score = appointments.judge(d.meta, d.answer)
            assert score.total == pytest.approx(4.0) and score.well_formed
            calls = [m["content"] for m in d.messages[:-1] if m["role"] == "assistant"]
            assert calls == d.meta["plan"]


def test_every_flaw_of_a_turn_costs_what_it_is():
    """The flaws of calls and answers, each alone, against the flawless turn."""
    for s in [*some(300, 8), *islice(appointments.after_results(8), 300)]:
        best = appointments.judge(s.meta(), appointments.turn(Random(1), s, frozenset())).total
        assert best == pytest.approx(4.0)
        for flaw in appointments.FLAWS:
            text = appointments.turn(Random(1), s, frozenset({flaw}))
            total = appointments.judge(s.meta(), text).total
            about_calls = flaw in ("no_call", "malformed", "wrong_request")
            about_answers = flaw not in appointments.ONCE and flaw != "wrong_refusal"
            if flaw == "needless_call" or (about_answers and s.due) or (about_calls and not s.due):
                continue
            if flaw == "wrong_refusal" and s.outcome == "out_of_scope":
                continue
            if flaw == "rambling" and total == best:
                continue  # short enough all the same
            if flaw == "wrong_fact" and s.outcome == "out_of_scope":
                continue
            assert total < best, (flaw, text)


def test_an_error_is_followed_by_the_right_call():
    again = [d for d in DEMONSTRATIONS if "malformed" in d.meta["flaws"]]
    found = 0
    for d in again:
        for before, said, after in zip(d.messages, d.messages[1:], d.messages[2:]):
            if said["content"].startswith(("error: there is", "error: the cal")):
                assert tools.problem(tools.parse(before["content"]))
                assert after["content"] in d.meta["plan"]
                found += 1
    assert found > 50


def test_records_survive_json_and_are_judged_the_same():
    for d in DEMONSTRATIONS[:300]:
        back = json.loads(json.dumps(d.meta))
        assert back == d.meta and appointments.knows(back)
        assert appointments.judge(back, d.answer) == appointments.judge(d.meta, d.answer)
        assert json.loads(json.dumps(d.messages)) == d.messages


def test_records_of_others_are_not_known():
    assert not appointments.knows({}) and not appointments.knows({"intent": "hours"})
    assert "intent" not in DEMONSTRATIONS[0].meta  # by which the shop knows its own


# ---------------------------------------------------------------------- preferences
def test_annotators_are_bradley_terry_draws_from_the_gold_score():
    pairs = appointments.preferences(3000)
    for r in pairs[:200]:
        gold = [appointments.judge(r.meta, t).total for t in (r.chosen, r.rejected)]
        assert r.meta["gold"] == gold
    p = [appointments.preference_probability(*r.meta["gold"]) for r in pairs]
    bayes = sum(max(x, 1 - x) for x in p) / len(p)
    right = sum((a > b) + 0.5 * (a == b) for a, b in (r.meta["gold"] for r in pairs)) / len(p)
    assert 0.8 < bayes < 0.97
    assert abs(right - bayes) < 0.02  # the judge itself reaches Bayes' accuracy


def test_preference_probability_by_hand():
    assert appointments.preference_probability(1.0, 1.0) == 0.5
    assert appointments.preference_probability(0.7, 0.0) == pytest.approx(0.7310586)


def test_pairs_are_first_turns_that_differ_and_may_follow_a_result():
    for r in appointments.preferences(300):
        assert r.chosen != r.rejected and r.prompt[-1]["role"] == "user"
    rng = Random(0)
    for s in islice(appointments.after_results(1), 100):
        assert appointments.preference(rng, s).prompt[-1]["role"] == "system"


# ------------------------------------------------------------------ tokens and masks
@pytest.fixture(scope="module")
def tokenizer():
    texts = (m["content"] for d in appointments.demonstrations(4000) for m in d.messages)
    return template.train_tokenizer(texts, 1200)


def test_the_loss_sees_both_turns_of_the_assistant_and_not_the_result(tokenizer):
    seen = 0
    for d in DEMONSTRATIONS[:400]:
        (encoded,) = template.encode(tokenizer, [d.messages])
        mask = iter(zip(encoded.ids, encoded.mask))
        for m in d.messages:
            spoken = int(m["role"] == "assistant")
            assert next(mask)[1] == 0  # the role's token
            body = [*tokenizer(m["content"])["input_ids"], tokenizer.eos_token_id]
            assert [next(mask) for _ in body] == [(i, spoken) for i in body]
        assert next(mask, None) is None
        seen += len(d.messages) > 3
    assert seen > 150


def test_a_mask_by_hand(tokenizer):
    messages = [
        {"role": "user", "content": "What is that?"},
        {"role": "assistant", "content": "call calculator: 17 + 25"},
        {"role": "system", "content": "result: 42"},
        {"role": "assistant", "content": "That is 42 minutes."},
    ]
    (encoded,) = template.encode(tokenizer, [messages])
    spoken = [i for i, own in zip(encoded.ids, encoded.mask) if own]
    assert tokenizer.decode(spoken) == "call calculator: 17 + 25<|end|>That is 42 minutes.<|end|>"
    rest = [i for i, own in zip(encoded.ids, encoded.mask) if not own]
    assert "result: 42" in tokenizer.decode(rest)


def test_prompts_and_dialogues_are_short(tokenizer):
    def percentile(lengths, share):
        return sorted(lengths)[int(share * len(lengths))]

    for held_out in (False, True):
        prompts = [s.messages() for s in some(1000, 9, held_out)]
        lengths = [len(ids) for ids in template.encode_prompts(tokenizer, prompts)]
        assert percentile(lengths, 0.95) <= 70
    encoded = template.encode(tokenizer, [d.messages for d in DEMONSTRATIONS])
    lengths = [len(e.ids) for e in encoded]
    assert percentile(lengths, 0.5) <= 80 and percentile(lengths, 0.95) <= 120
    assert max(lengths) < 256


NUMBERS = {*appointments.HOURS, *range(10, 100, 5), *range(20, 195, 5)}  # hours, minutes, sums


def test_names_days_and_numbers_are_one_token_each(tokenizer):
    for word in (*appointments_text.APPOINTMENTS, *DAYS, *map(str, sorted(NUMBERS))):
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word
