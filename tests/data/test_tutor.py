"""The tutor: the same from a seed, its pairs held out, its check right, its judge as a person."""

import json
import re
from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import template, tutor, tutor_text
from chatlib.maths.preference import bayes_accuracy

SEEDS = st.integers(0, 100_000)
FAST = settings(max_examples=60, deadline=None)


def drawn(seed, held_out=False):
    """One scenario and a generator to answer it with."""
    rng = Random(seed)
    return tutor.scenario(rng, held_out), rng


def some(n, held_out=False):
    return list(islice(tutor.scenarios(0, held_out), n))


# ---------------------------------------------------------------------- the corpus
def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    for make in (tutor.demonstrations, tutor.preferences):
        assert make(50, 3) == make(50, 3)
        assert make(50, 3) != make(50, 4)
        assert make(20, 1) == make(60, 1)[:20]


def test_every_kind_of_question_and_every_record_is_there():
    metas = [s.meta() for s in some(4000)]
    answers = Counter(m["task"] for m in metas if m["claim"] is None)
    checks = Counter(m["task"] for m in metas if m["claim"] is not None)
    assert set(answers) == set(tutor.TASKS) and min(answers.values()) > 650
    assert set(checks) == set(tutor.CHECKED) and min(checks.values()) > 200
    for key in ("level", "rule"):
        first, second = Counter(m[key] for m in metas).values()
        assert abs(first - second) < 300
    jumping = sum(m["trick"] == tutor.JUMPING for m in metas)
    assert abs(jumping - 2000) < 150


def test_a_prompt_ends_with_the_pupil_and_holds_the_record():
    turns = Counter()
    for s in some(500):
        messages = s.messages()
        turns[len(messages)] += 1
        assert [m["role"] for m in messages[:2]] == ["system", "user"]
        assert messages[-1]["role"] == "user"
        record = messages[0]["content"]
        known, unknown = (re.search(rf"{k} ([^;]*)", record)[1] for k in ("knows", "not yet"))
        assert s.trick in known and s.avoid in unknown
        assert f"level {s.level}" in record and s.rule in record and s.name in record
    assert set(turns) == {2, 4}


def test_every_record_survives_json():
    for make in (tutor.demonstrations, tutor.preferences):
        for record in make(200):
            back = json.loads(json.dumps(record.meta))
            assert back == record.meta
            assert tutor.knows(back)
            texts = [record.answer] if hasattr(record, "answer") else [record.chosen]
            assert tutor.judge(back, texts[0]) == tutor.judge(record.meta, texts[0])


def test_gold_spans_are_where_their_texts_are():
    labels = Counter()
    for d in tutor.demonstrations(800, 5):
        said = [(i, d.messages[i]["content"][a:b], label) for i, a, b, label in d.meta["spans"]]
        labels.update(label for _, _, label in said)
        words = {label: {text for _, text, own in said if own == label} for label in labels}
        assert words.get("NAME") == {d.meta["name"]}
        assert {d.meta["trick"], d.meta["avoid"]} <= words["TRICK"]
        assert words["LEVEL"] == {str(d.meta["level"])}
        assert all(i == 0 for i, _, label in said if label in ("LEVEL", "TRICK"))
        # every number is in exactly one span: nothing is missed, nothing is said twice
        spans = [(i, a, b) for i, a, b, label in d.meta["spans"] if label in ("SUM", "NUMBER")]
        inside = [
            n for i, a, b in spans for n in re.findall("[0-9]+", d.messages[i]["content"][a:b])
        ]
        asked = [n for m in d.messages[1:] for n in re.findall("[0-9]+", m["content"])]
        assert inside == asked
    assert min(labels[label] for label in ("NAME", "LEVEL", "TRICK", "SUM", "NUMBER")) > 300


def test_an_answer_of_one_word_that_is_cut_off_is_that_word(monkeypatch):
    """Found at the 52,000th record: there was nothing to draw a place from."""
    monkeypatch.setattr(tutor, "_verdict", lambda *given: "right.")
    monkeypatch.setattr(tutor, "ADDRESSES", ("",))
    scenario = next(s for s in some(100) if s.claim is not None and s.level == 2)
    assert tutor._compose(Random(0), scenario, {"cut_off", "no_name"}) == "Right."


def test_qualities_are_mixed_as_stated():
    qualities = Counter(d.meta["quality"] for d in tutor.demonstrations(3000))
    for name, share in tutor.QUALITIES.items():
        assert abs(qualities[name] / 3000 - share) < 0.03


def test_about_six_demonstrations_in_ten_are_solved():
    for held_out in (False, True):
        some_ = tutor.demonstrations(2000, 1, held_out)
        share = sum(tutor.check(d.meta, d.answer) for d in some_) / len(some_)
        assert 0.58 < share < 0.70


@pytest.mark.timeout(60)
def test_prompts_and_answers_are_short_in_tokens():
    dialogues = tutor.demonstrations(2000)
    texts = (m["content"] for d in dialogues for m in d.messages)
    tokenizer = template.train_tokenizer(texts, 1200)
    prompts = [d.prompt for d in dialogues]
    answers = [d.answer for d in dialogues]
    prompt = sorted(map(len, template.encode_prompts(tokenizer, prompts)))
    answer = sorted(map(len, template.encode_answers(tokenizer, prompts, answers)))
    assert prompt[1900] <= 60 and prompt[-1] <= 64  # measured: 43 and 45
    assert answer[1900] <= 30 and answer[-1] <= 48  # measured: 27 and 35
    assert all(len(tokenizer.tokenize(f" {n}")) == 1 for n in range(2, 40))


# ------------------------------------------------------------------------- held out
def asked_pairs(scenarios):
    """(task, pair) of each, as an addition or product whichever way round it was asked."""
    return {(s.problem.task, s.problem.fact) for s in scenarios}


def test_a_held_out_pair_is_never_asked_in_training_in_any_guise():
    trained, kept = asked_pairs(some(6000)), asked_pairs(some(3000, held_out=True))
    for tasks in (("add", "sub"), ("mul", "word")):
        seen = {fact for task, fact in trained if task in tasks}
        held = {fact for task, fact in kept if task in tasks}
        assert seen and held and not seen & held


@pytest.mark.parametrize("task", tutor.TASKS)
def test_each_operand_of_a_held_out_pair_is_trained_on(task):
    trained, kept = tutor.problems(task, False), tutor.problems(task, True)
    assert {p.a for p in kept} <= {p.a for p in trained}
    assert {p.b for p in kept} <= {p.b for p in trained}
    assert 0.1 < len(kept) / len(trained + kept) < 0.2


def test_no_word_of_a_text_shows_a_pair_of_the_other_split():
    for held_out in (False, True):
        for d in tutor.demonstrations(3000, 5, held_out):
            for message in d.messages:
                for a, sign, b in re.findall(r"(\d+) ([-+*]) (\d+)", message["content"]):
                    task = {"+": "add", "-": "sub", "*": "mul"}[sign]
                    p = tutor.Problem(task, int(a), int(b))
                    assert p not in tutor.problems(task, not held_out), message["content"]


def test_names_and_phrasings_are_held_out():
    assert not {*tutor_text.NAMES} & {*tutor_text.HELD_OUT_NAMES}
    assert {s.name for s in some(2000)} <= {*tutor_text.NAMES}
    assert {s.name for s in some(500, True)} <= {*tutor_text.HELD_OUT_NAMES}
    for kind, listed in tutor_text.QUESTIONS.items():
        assert not {*listed} & {*tutor_text.HELD_OUT_QUESTIONS[kind]}


# ---------------------------------------------------------------------- arithmetic
@FAST
@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.data())
def test_value_of_a_side_against_floats_summed_term_by_term(terms, data):
    signs = [data.draw(st.sampled_from("+-*")) for _ in terms[1:]]
    side = str(terms[0]) + "".join(f" {s} {n}" for s, n in zip(signs, terms[1:]))
    total = 0
    for term in side.replace("- ", "+ -").split("+ "):  # a sum of signed products
        product = 1
        for factor in term.split("*"):
            product *= int(factor)
        total += product
    assert tutor.value(side) == total


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("task", tutor.TASKS)
def test_every_trick_leads_to_the_result_and_its_first_step_does_not_tell_it(task, held_out):
    for start in tutor.problems(task, held_out):
        problem = start
        if task == "word":
            problem = tutor._story(Random(start.a), start, held_out)
        for trick in (tutor.TRICKS[task], tutor.JUMPING):
            step = tutor.first_step(problem, trick)
            assert tutor.value(step.rest) == problem.result > 1
            assert step.value is None or step.value == tutor.value(step.said) != problem.result
            assert problem.result not in tutor.numbers(step.said)


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("14 + 9 = 23", 0),
        ("14+9=23", 0),
        ("14 plus 9 is 23.", 0),
        ("3 × 4 = 12", 0),
        ("3 x 4 = 4 + 4 + 4 = 12", 0),
        ("2 + 3 * 4 = 14", 0),
        ("14 + 9 = 22", 1),
        ("14 + 6 = 20 + 3 = 23", 1),  # as pupils write, and wrong
        ("First 14 + 6 = 21, then 20 + 3 = 24.", 2),
        ("14 + 9 is not 22.", 0),
        ("I count 14, 15, 16.", 0),
        ("", 0),
    ],
)
def test_false_equations_by_hand(text, false):
    assert len(tutor.false_equations(text)) == false


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, that is right.", True),
        ("22 is right.", True),
        ("That is correct.", True),
        ("No, look at the ones.", False),
        ("That is not right.", False),
        ("Not quite right.", False),
        ("No, the right answer is 23.", False),
        ("Yes and no.", None),
        ("Start at 14.", None),
    ],
)
def test_verdicts_by_hand(text, expected):
    assert tutor.verdict(text) is expected


def test_numbers_in_words():
    expected = {2: "two", 13: "thirteen", 20: "twenty", 47: "forty seven", 90: "ninety"}
    assert {n: tutor.in_words(n) for n in expected} == expected
    assert tutor.tells("It is twenty-three.", 23)
    assert tutor.tells("It is twenty three.", 23)
    assert not tutor.tells("It is twenty.", 23)
    assert not tutor.tells("It is 123.", 23)


# ----------------------------------------------------------------------- the check
@FAST
@given(SEEDS, st.booleans())
def test_an_ideal_answer_is_solved_well_formed_and_scores_four(seed, held_out):
    s, rng = drawn(seed, held_out)
    text = tutor.ideal(rng, s)
    assert tutor.check(s.meta(), text)
    assert tutor.well_formed(text)
    assert tutor.judge(s.meta(), text).total == pytest.approx(4.0)


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.integers(-12, 12).filter(bool))
def test_with_the_last_number_changed_it_is_not_solved(seed, change):
    s, rng = drawn(seed)
    text = tutor.ideal(rng, s)
    found = list(re.finditer(r"\d+", text))
    if found and not ("2 *" in text and "=" not in text):  # either operand may be doubled
        last = found[-1]
        changed = abs(int(last[0]) + change)
        swapped = f"{text[: last.start()]}{changed}{text[last.end() :]}"
        assert changed == int(last[0]) or not tutor.check(s.meta(), swapped), swapped


def test_every_changed_result_of_a_solution_is_unsolved():
    metas = [s for s in some(600) if s.claim is None and s.rule == tutor.SOLVED]
    for s in metas:
        text = tutor.ideal(Random(0), s)
        for other in range(100):
            changed = re.sub(rf"= {s.problem.result}\b(?!.*= \d)", f"= {other}", text)
            assert tutor.check(s.meta(), changed) == (other == s.problem.result), changed


@FAST
@given(SEEDS)
def test_the_opposite_verdict_is_not_solved(seed):
    s, rng = drawn(seed)
    if s.claim is not None:
        assert not tutor.check(s.meta(), tutor._verdict(rng, s, s.claim, {"wrong_verdict"}))


@FAST
@given(SEEDS)
def test_a_hint_never_contains_the_result_and_a_leak_is_fined(seed):
    s, rng = drawn(seed)
    if s.rule == tutor.HINTS_ONLY and s.claim != s.problem.result:
        hint, result = tutor.ideal(rng, s), s.problem.result
        assert not tutor.tells(hint, result)
        good = tutor.judge(s.meta(), hint)
        for leak in (f" It is {result}.", f" It is {tutor.in_words(result)}."):
            told = tutor.judge(s.meta(), hint + leak)
            assert told.parts["leak"] == -2.0 and good.parts["leak"] == 0.0
            assert told.total < good.total - 1.9
            assert not tutor.check(s.meta(), hint + leak)


@FAST
@given(SEEDS, st.sampled_from(["wrong_trick", "wrong_rule", "no_step", "slip"]))
def test_a_flaw_in_what_is_asked_for_is_not_solved(seed, flaw):
    s, rng = drawn(seed)
    if s.claim is None:
        text, p = tutor._compose(rng, s, {flaw}), s.problem
        # Found: 5 jumps of 3, both slipped, are 3 jumps of 5, and that is right by chance.
        by_chance = flaw == "slip" and Counter([p.a, p.b]) <= Counter(tutor.numbers(text))
        assert by_chance or not tutor.check(s.meta(), text)


def test_two_slips_in_a_jump_undo_each_other_seldom():
    hints = [s for s in some(4000) if (s.rule, s.trick) == (tutor.HINTS_ONLY, tutor.JUMPING)]
    slipped = [tutor._help(Random(i), s, {"slip"}) for i, s in enumerate(hints)]
    right = [tutor.check(s.meta(), t) for s, t in zip(hints, slipped) if s.claim is None]
    assert len(right) > 500 and sum(right) / len(right) < 0.02


@FAST
@given(SEEDS, st.sampled_from(["no_name", "wrong_level", "rude", "rambling"]))
def test_manners_cost_gold_and_never_the_check(seed, flaw):
    s, rng = drawn(seed)
    text = tutor._compose(rng, s, {flaw})
    assert tutor.check(s.meta(), text)
    assert tutor.judge(s.meta(), text).total <= 4.0 - (flaw != "rambling") * 0.4


@FAST
@given(SEEDS, st.text(max_size=200))
def test_no_text_breaks_the_judge_or_beats_four(seed, text):
    meta = drawn(seed)[0].meta()
    assert tutor.judge(meta, text).total <= 4.0
    tutor.check(meta, text)


@FAST
@given(st.text("0123456789 +-*=x.", max_size=300))
def test_no_sum_breaks_the_check(text):
    tutor.check(ADD, text)
    tutor.check(TOLD, text)


def test_a_list_of_guesses_solves_nothing():
    assert not tutor.check(TOLD, "First 14 + 6 = 20, so 21 22 23 24 25 26.")
    assert not tutor.check(TOLD, "14 + 6 = 20, 20 + 2 = 22, 20 + 3 = 23, 20 + 4 = 24.")
    assert not tutor.check(WRONG_ONES, "No, look at the ones and the tens.")
    assert not tutor.check(WRONG_ONES, "Yes, no, look at the ones.")
    assert not tutor.check(ADD, "First do 14 + 6, or start at 14 and jump 9 up.")


def test_a_record_of_another_corpus_is_refused_in_one_sentence():
    assert not tutor.knows({"intent": "hours"})
    for judged in (tutor.judge, tutor.check):
        with pytest.raises(ValueError, match=r"corpus.*None.*'tutor'"):
            judged({"intent": "hours", "claim": None, "rule": "", "avoid": "jumping"}, "Hello.")


# ---------------------------------------------------------------------- the judge
def meta(task, numbers, claim=None, level=2, rule=tutor.HINTS_ONLY, trick=None):
    """A pupil named Ada who has mastered a trick, and not the other."""
    both = (tutor.TRICKS[task], tutor.JUMPING)
    trick = trick or both[0]
    avoid = both[1 - both.index(trick)]
    return dict(
        corpus="tutor",
        task=task,
        numbers=numbers,
        claim=claim,
        name="Ada",
        level=level,
        rule=rule,
        trick=trick,
        avoid=avoid,
    )


ADD = meta("add", [14, 9, 0])
ADD_CHEER = meta("add", [14, 9, 0], level=1)
ADD_JUMP = meta("add", [14, 9, 0], trick="jumping")
TOLD = meta("add", [14, 9, 0], rule=tutor.SOLVED)
TOLD_JUMP = meta("add", [14, 9, 0], rule=tutor.SOLVED, trick="jumping")
SUB = meta("sub", [31, 14, 0])
SUB_TOLD = meta("sub", [31, 14, 0], rule=tutor.SOLVED, level=1)
MUL = meta("mul", [4, 7, 0])
MUL_TOLD = meta("mul", [4, 7, 0], rule=tutor.SOLVED)
MUL_JUMP = meta("mul", [4, 7, 0], trick="jumping")
STORY = meta("word", [3, 4, 5])
STORY_TOLD = meta("word", [3, 4, -5], rule=tutor.SOLVED)
STORY_JUMP = meta("word", [3, 4, 5], rule=tutor.SOLVED, trick="jumping", level=1)
RIGHT = meta("add", [14, 9, 0], claim=23)
RIGHT_TOLD = meta("mul", [4, 7, 0], claim=28, rule=tutor.SOLVED, level=1)
WRONG_ONES = meta("add", [14, 9, 0], claim=22)
WRONG_TENS = meta("add", [14, 9, 0], claim=33, level=1)
WRONG_TOLD = meta("sub", [31, 14, 0], claim=27, rule=tutor.SOLVED)

# (what it shows, record, answers as a person would rank them, best first, how many are solved)
RANKED = [
    ("the first step", ADD, 1, ["Ada, start with 14 + 6.", "Ada, think about it.", ""]),
    ("its value may stand", ADD, 1, ["Ada, start with 14 + 6 = 20.", "Ada, try it again."]),
    ("other words", ADD, 2, ["Hello Ada, begin with 14 + 6.", "Begin with 14 + 6.", "No."]),
    ("either operand", ADD, 1, ["Ada, first do 9 + 1 = 10.", "Ada, first do 9 + 2 = 11."]),
    (
        "no leak, however kind",
        ADD,
        1,
        ["Start with 14 + 6.", "Ada, take your time.", "Ada, it is 23."],
    ),
    (
        "no leak in words",
        ADD,
        1,
        ["Start with 14 + 6.", "Start with 14 + 6. It is twenty-three."],
    ),
    (
        "no leak by what is left",
        ADD,
        1,
        ["Ada, start with 14 + 6 = 20.", "Ada, first 14 + 6 = 20, then 20 + 3."],
    ),
    ("a hint without its number", ADD, 1, ["Ada, start with 14 + 6.", "Ada, start with 14."]),
    ("a false step", ADD, 1, ["Ada, first do 14 + 6 = 20.", "Ada, first do 14 + 6 = 21."]),
    (
        "a trick not yet mastered",
        ADD,
        1,
        ["Ada, start with 14 + 6.", "Ada, start at 14 and jump 9 up."],
    ),
    (
        "rude is worse than nameless",
        ADD,
        3,
        [
            "Ada, start with 14 + 6.",
            "Start with 14 + 6.",
            "You should know that. Start with 14 + 6.",
        ],
    ),
    (
        "beginners are cheered on",
        ADD_CHEER,
        2,
        ["Ada, start with 14 + 6. You can do it!", "Ada, start with 14 + 6."],
    ),
    (
        "once is enough",
        ADD_CHEER,
        2,
        [
            "Ada, start with 14 + 6. Keep going!",
            "Ada, start with 14 + 6. Keep going! Good work! You can do it!",
        ],
    ),
    (
        "cheers are no help",
        ADD_CHEER,
        1,
        ["Start with 14 + 6.", "Ada, keep going! Good work! You can do it!"],
    ),
    (
        "the advanced want it short",
        ADD,
        2,
        ["Ada, start with 14 + 6.", "Ada, start with 14 + 6. You can do it!"],
    ),
    (
        "jumps",
        ADD_JUMP,
        2,
        [
            "Ada, start at 14 and jump 9 up.",
            "Start at 14 and jump 9 up.",
            "Ada, start at 14 and jump 8 up.",
        ],
    ),
    (
        "jumps, not bridges",
        ADD_JUMP,
        1,
        ["Ada, start at 14 and jump 9 up.", "Ada, start with 14 + 6 = 20."],
    ),
    (
        "rambling",
        ADD,
        2,
        [
            "Ada, start with 14 + 6.",
            "Ada, start with 14 + 6. Numbers are fun and they are all around us. My cat likes to "
            "sit on my books. I learned this when I was small.",
        ],
    ),
    ("unfinished", ADD, 2, ["Ada, start with 14 + 6.", "Ada, start with 14 + 6"]),
    ("said twice", ADD, 2, ["Start with 14 + 6.", "Start with 14 + 6. Start with 14 + 6."]),
    ("word salad", ADD, 1, ["Start with 14 + 6.", "6 with start + 14 Ada."]),
    (
        "the worked step and the result",
        TOLD,
        1,
        [
            "Ada, first 14 + 6 = 20, so 20 + 3 = 23.",
            "Ada, the answer is 23.",
            "Ada, the answer is 24.",
        ],
    ),
    (
        "the result first",
        TOLD,
        1,
        ["Ada, the result is 23, because 14 + 6 = 20 and 20 + 3 = 23.", "23 23 23"],
    ),
    (
        "a solution is allowed",
        TOLD,
        1,
        ["Ada, 14 + 6 = 20, then 20 + 3 = 23.", "Ada, start with 14 + 6.", "Ada, try it again."],
    ),
    (
        "a slip at the end",
        TOLD,
        1,
        ["14 + 6 = 20, then 20 + 3 = 23.", "Ada, 14 + 6 = 20, then 20 + 3 = 24."],
    ),
    (
        "two slips",
        TOLD,
        0,
        ["Ada, 14 + 6 = 20, then 20 + 3 = 24.", "Ada, 14 + 6 = 21, then 21 + 3 = 25."],
    ),
    (
        "a solution by jumps",
        TOLD_JUMP,
        1,
        [
            "Ada, start at 14 and jump 9 up, so 14 + 9 = 23.",
            "Ada, first 14 + 6 = 20, so 20 + 3 = 23.",
        ],
    ),
    (
        "subtraction",
        SUB,
        1,
        ["Ada, start with 31 - 1 = 30.", "Ada, start with 14 - 1 = 13.", "Ada, 31 - 14 = 17."],
    ),
    (
        "subtraction worked",
        SUB_TOLD,
        2,
        [
            "Ada, first 31 - 1 = 30, so 30 - 13 = 17. Good work!",
            "First 31 - 1 = 30, so 30 - 13 = 17.",
            "First 31 - 1 = 30, so 30 - 13 = 27.",
        ],
    ),
    (
        "doubling",
        MUL,
        2,
        ["Ada, start with 2 * 7.", "Start with 2 * 7.", "Ada, make 4 jumps of 7."],
    ),
    (
        "double fours",
        MUL,
        1,
        ["Ada, first do 2 * 4 = 8.", "Ada, first do 3 * 7 = 21.", "Ada, first do 3 * 7 = 28."],
    ),
    (
        "doubling worked",
        MUL_TOLD,
        1,
        [
            "Ada, 2 * 7 = 14, then 4 * 7 = 28.",
            "Ada, 2 * 7 = 14, then 4 * 7 = 38.",
            "Not you again. It is 38.",
        ],
    ),
    (
        "jumps of seven",
        MUL_JUMP,
        1,
        ["Ada, on the number line, make 4 jumps of 7.", "Ada, make 5 jumps of 7.", "Jump!"],
    ),
    (
        "a story's first step",
        STORY,
        1,
        [
            "Ada, first do 3 * 4.",
            "Ada, first do 4 + 5 = 9.",
            "Ada, first 3 * 4 = 12, so 12 + 5 = 17.",
        ],
    ),
    (
        "a story worked",
        STORY_TOLD,
        1,
        [
            "Ada, 3 * 4 = 12, then 12 - 5 = 7.",
            "Ada, 3 * 4 = 12, then 12 + 5 = 17.",
            "Do not be so lazy. Ada, 3 * 4 = 11, then 11 + 5 = 17.",
        ],
    ),
    (
        "a story by jumps",
        STORY_JUMP,
        2,
        [
            "Ada, make 3 jumps of 4, then 12 + 5 = 17. Good work!",
            "Make 3 jumps of 4, then 12 + 5 = 17.",
            "It is 17.",
        ],
    ),
    (
        "a right result",
        RIGHT,
        2,
        ["Ada, yes, that is right.", "23 is right.", "Ada, no, look at the ones again."],
    ),
    (
        "a right result is no secret",
        RIGHT,
        2,
        ["Ada, yes, it is 23.", "Yes, 14 + 9 = 23 is correct.", "Yes, it is 9."],
    ),
    (
        "a right result, cheered",
        RIGHT_TOLD,
        2,
        [
            "Hi Ada, yes, it is 28. You are getting better.",
            "Yes, it is 28.",
            "No, look at the tens: 4 * 7 = 38.",
        ],
    ),
    (
        "a wrong result and where",
        WRONG_ONES,
        1,
        [
            "Ada, no, look at the ones again.",
            "Ada, that is wrong.",
            "Ada, yes, that is right.",
        ],
    ),
    (
        "the wrong place",
        WRONG_ONES,
        1,
        ["Not yet, check the ones.", "Not yet, check the tens.", "Not yet, it is 23."],
    ),
    (
        "the tens, cheered",
        WRONG_TENS,
        2,
        [
            "Ada, that is wrong, the tens are not right. Keep going!",
            "That is wrong, the tens are not right.",
            "That is wrong, the ones are not right.",
        ],
    ),
    (
        "what is wrong may be quoted",
        WRONG_TENS,
        1,
        [
            "Ada, 14 + 9 = 33 is not right, check the tens. You can do it!",
            "Ada, 14 + 9 = 33 is right. You can do it!",
        ],
    ),
    (
        "a wrong result, told",
        WRONG_TOLD,
        2,
        [
            "Ada, no, look at the tens: 31 - 14 = 17.",
            "No, look at the tens: 31 - 14 = 17.",
            "No, look at the tens again.",
            "No, look at the ones: 31 - 14 = 26.",
        ],
    ),
    (
        "told with a slip",
        WRONG_TOLD,
        1,
        [
            "Not right, the tens are wrong, 31 - 14 = 17.",
            "Not right, the tens are wrong, 31 - 14 = 18.",
            "Yes, it is 27.",
        ],
    ),
]
IDS = [name for name, *_ in RANKED]


def test_the_hand_written_set_is_large_enough_and_has_no_twins():
    assert len(RANKED) >= 40
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize(("name", "record", "solved", "answers"), RANKED, ids=IDS)
def test_the_judge_ranks_answers_as_a_person_would(name, record, solved, answers):
    totals = [tutor.judge(record, a).total for a in answers]
    for (better, high), (worse, low) in pairwise(zip(answers, totals)):
        assert high > low, f"{high:.2f} for {better!r} but {low:.2f} for {worse!r}"


@pytest.mark.parametrize(("name", "record", "solved", "answers"), RANKED, ids=IDS)
def test_the_check_accepts_as_many_of_the_first_as_a_person_would(name, record, solved, answers):
    assert [tutor.check(record, a) for a in answers] == [i < solved for i in range(len(answers))]


def test_the_parts_add_up():
    for _, record, _, answers in RANKED:
        for text in answers:
            score = tutor.judge(record, text)
            assert score.total == pytest.approx(sum(score.parts.values()))


@FAST
@given(SEEDS)
def test_shuffled_words_of_a_good_answer_score_lower(seed):
    good = "Hi Ada, on the number line, start at 14 and jump 9 up."
    shuffled = good.split()
    Random(seed).shuffle(shuffled)
    if shuffled != good.split():
        assert tutor.judge(ADD_JUMP, " ".join(shuffled)).total < tutor.judge(ADD_JUMP, good).total


def test_demonstrations_of_better_quality_score_higher():
    totals = {quality: [] for quality in tutor.QUALITIES}
    for d in tutor.demonstrations(2000):
        totals[d.meta["quality"]].append(tutor.judge(d.meta, d.answer).total)
    good, middling, bad = (sum(t) / len(t) for t in totals.values())
    assert good > middling + 0.5 > bad + 1.0
    assert good > 3.5


# ---------------------------------------------------------------------- preferences
def test_annotators_are_bradley_terry_draws_and_the_judge_reaches_their_ceiling():
    pairs = tutor.preferences(4000)
    for r in pairs[:200]:
        assert r.meta["gold"] == [tutor.judge(r.meta, t).total for t in (r.chosen, r.rejected)]
    gold = torch.tensor([r.meta["gold"] for r in pairs])
    best = bayes_accuracy(gold[:, 0], gold[:, 1], tutor.TEMPERATURE).item()
    assert tutor.ceiling(pairs) == pytest.approx(best, abs=1e-5)
    assert 0.78 < best < 0.86  # measured: .82
    right = (gold[:, 0] > gold[:, 1]).float().mean() + (gold[:, 0] == gold[:, 1]).float().mean() / 2
    assert abs(right.item() - best) < 0.02


def test_preference_probability_by_hand():
    assert tutor.preference_probability(1.0, 1.0) == 0.5
    assert tutor.preference_probability(0.7, 0.0) == pytest.approx(0.7310586)


def test_a_ceiling_needs_gold_scores():
    with pytest.raises(ValueError, match="there are no pairs"):
        tutor.ceiling([])
    pair = tutor.preferences(1)[0]
    pair.meta.pop("gold")
    with pytest.raises(ValueError, match=r"pair 0 has no meta\['gold'\]"):
        tutor.ceiling([pair])
