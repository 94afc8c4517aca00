"""Pictures as tokens: what they show can be read from their codes, and nothing else tells it."""

import re
import time
from collections import Counter
from itertools import islice, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import drawing, pictures, pictures_text, template
from chatlib.data.drawing import COLOURS, SHAPES

DEMONSTRATIONS = pictures.demonstrations(2000, 7)


def some(n, seed=0, held_out=False):
    """The first scenarios of a stream."""
    return list(islice(pictures.scenarios(seed, held_out), n))


# ---------------------------------------------------------------------- the corpus
def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    for make in (pictures.demonstrations, pictures.preferences):
        assert make(50, 3) == make(50, 3)
        assert make(50, 3) != make(50, 4)


def test_a_shorter_corpus_is_the_beginning_of_a_longer_one():
    assert pictures.demonstrations(20, 1) == pictures.demonstrations(60, 1)[:20]


@pytest.mark.timeout(60)
def test_five_thousand_dialogues_in_seconds_and_most_prompts_differ():
    began = time.process_time()
    dialogues = pictures.demonstrations(5000)
    assert time.process_time() - began < 15
    assert len({tuple(m["content"] for m in d.prompt) for d in dialogues}) > 4000


def test_every_task_colour_and_product_is_as_frequent_as_any_other():
    drawn = some(4000)
    for values in (
        Counter(s.task for s in drawn),
        Counter(s.picture.colour for s in drawn),
        Counter(s.picture.product for s in drawn),
    ):
        assert min(values.values()) > 0.75 * len(drawn) / len(values)


def test_qualities_are_mixed_as_stated_and_answers_mostly_right():
    qualities = [d.meta["quality"] for d in DEMONSTRATIONS]
    for name, share in pictures.QUALITIES.items():
        assert abs(qualities.count(name) / len(qualities) - share) < 0.04
    for task in ("colour", "thing", "both"):
        mine = [d for d in DEMONSTRATIONS if d.meta["task"] == task]
        assert 0.68 < np.mean([pictures.check(d.meta, d.answer) for d in mine]) < 0.85


def test_an_answer_without_flaws_is_right_and_has_the_best_score():
    for d in DEMONSTRATIONS:
        assert pictures.well_formed(d.answer), d.answer
        if not d.meta["flaws"]:
            assert pictures.check(d.meta, d.answer), d.answer
            assert pictures.judge(d.meta, d.answer).total == pytest.approx(4.0), d.answer


def test_every_word_of_an_answer_has_a_class():
    words = {w for d in DEMONSTRATIONS for w in pictures.shop.words(d.answer)}
    assert {w for w in words if pictures.word_class(w) == "?"} == set()


# ------------------------------------------------------------------------- held out
def test_one_pair_in_six_is_held_out_and_every_word_is_trained_on():
    pairs = {(c, p) for c in COLOURS for p in SHAPES}
    kept = {pair for pair in pairs if pictures.kept(*pair)}
    assert abs(len(kept) / len(pairs) - 1 / 6) < 0.01
    for part in (kept, pairs - kept):
        assert {c for c, _ in part} == {*COLOURS} and {p for _, p in part} == {*SHAPES}
    shown = [{(s.picture.colour, s.picture.product) for s in some(3000, 0, h)} for h in (0, 1)]
    assert shown == [pairs - kept, kept]


def test_no_answer_of_training_names_a_held_out_pair():
    held_out = {(c, p) for c in COLOURS for p in SHAPES if pictures.kept(c, p)}
    for d in DEMONSTRATIONS:
        named = pictures.mentions(d.answer)
        assert not {(c, p) for c in named["colour"] for p in named["product"]} & held_out


def test_nothing_but_the_picture_tells_what_it_shows():
    for questions in pictures_text.QUESTIONS.values():
        for question in questions:
            assert pictures.mentions(question) == {"colour": set(), "product": set()}
    for s in some(300):
        assert re.fullmatch(r"picture( [А-я]){16}", s.messages()[0]["content"])


# ------------------------------------------------------- what the codes tell, and blank ones not
def codes_of(scenarios):
    return np.array([s.codes for s in scenarios])


def histograms(codes):
    """How often each code but the empty one stands in each picture, as shares."""
    counts = (codes[:, :, None] == np.arange(1, drawing.CODES)).sum(1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def centroid_accuracy(train, named, test, true):
    """Accuracy of the nearest mean of each class: the simplest of all classifiers."""
    names = sorted({*named})
    means = np.stack([train[[n == name for n in named]].mean(0) for name in names])
    nearest = ((test[:, None] - means) ** 2).sum(-1).argmin(1)
    return np.mean([names[i] == t for i, t in zip(nearest, true)])


def test_the_colour_of_a_held_out_pair_can_be_read_from_its_codes_and_not_from_blank_ones():
    train, test = some(2000, 1), some(500, 2, True)
    named, true = ([s.picture.colour for s in part] for part in (train, test))
    known = histograms(codes_of(train))
    assert centroid_accuracy(known, named, histograms(codes_of(test)), true) > 0.9
    nothing = codes_of([pictures.with_picture(s, pictures.blank()) for s in test])
    assert centroid_accuracy(known, named, histograms(nothing), true) < 0.25


def test_the_thing_of_a_held_out_pair_can_be_read_from_its_codes():
    """The most similar training picture, compared pattern by pattern whatever the colours."""
    train, test = some(2000, 3), some(400, 4, True)
    known, asked = (
        np.where(c == 0, 0, (c - 1) % len(drawing.PATTERNS) + 1)
        for c in (codes_of(train), codes_of(test))
    )
    nearest = [train[(known != row).sum(1).argmin()].picture.product for row in asked]
    assert np.mean([n == s.picture.product for n, s in zip(nearest, test)]) > 0.9


def test_every_code_of_a_held_out_picture_is_trained_on_often():
    often = Counter(c for s in some(2000) for c in s.codes)
    assert min(often[c] for s in some(500, 0, True) for c in s.codes) > 40


def test_another_picture_changes_the_codes_and_neither_the_truth_nor_the_image():
    first, second = some(2)
    swapped = pictures.with_picture(first, second.codes)
    assert swapped.messages() == [second.messages()[0], first.messages()[1]]
    assert swapped.meta() == first.meta()
    assert (pictures.image(swapped) == pictures.image(first)).all()
    assert pictures.patches(pictures.image(first)) == first.codes
    with pytest.raises(ValueError, match="given 2 codes; give 16, one a patch"):
        pictures.with_picture(first, [0, 1])


def test_blank_prompts_of_a_question_are_one_prompt():
    blank = [pictures.with_picture(s, pictures.blank()) for s in some(400)]
    assert {tuple(m["content"] for m in s.messages()) for s in blank} == {
        ("picture" + " А" * 16, s.question) for s in blank
    }


# ------------------------------------------------------------------------ tokens
def test_every_code_is_one_token_and_a_sequence_is_short():
    dialogues = pictures.demonstrations(2000)
    texts = [" ".join(m["content"] for m in d.messages) for d in dialogues]
    tokenizer = template.train_tokenizer(texts, 1200)
    ids = [tokenizer(f" {letter}")["input_ids"] for letter in pictures.LETTERS]
    assert {len(i) for i in ids} == {1} and len({i[0] for i in ids}) == drawing.CODES
    prompts = template.encode_prompts(tokenizer, [d.prompt for d in dialogues])
    assert max(map(len, prompts)) <= 40
    encoded = template.encode(tokenizer, [d.messages for d in dialogues])
    assert max(len(e.ids) for e in encoded) < 90


# --------------------------------------------------------------------- the judge
def meta(task):
    """What the judge knows of a red lamp."""
    return {"corpus": "pictures", "task": task, "colour": "red", "product": "lamp"}


# Each list stands in the order in which a person would rank the answers, best first.
RANKED = {
    "colour": (
        "colour",
        [
            "Sure. The lamp is red. Have a nice day.",
            "It is red.",
            "It has a nice colour.",
            "I cannot tell.",
            "It is blue.",
            "How should I know? It is blue.",
        ],
    ),
    "colour in other words": (
        "colour",
        [
            "Certainly, it is red. Let me know if you have any other question.",
            "It looks red to me.",
            "The bowl is red.",
            "It is not red.",
        ],
    ),
    "thing": (
        "thing",
        [
            "Gladly. It is a lamp. Is there anything else?",
            "I see a lamp.",
            "It is something red.",
            "It is a bowl.",
            "It is a blue bowl.",
        ],
    ),
    "both": (
        "both",
        [
            "Of course. I see a red lamp. You are welcome.",
            "Of course. I see a red lamp.",
            "There is a red lamp in the picture.",
            "It is a lamp.",
            "It is a blue lamp.",
            "It is a blue bowl.",
        ],
    ),
    "another product of the shop is wrong too": (
        "both",
        ["This is a red lamp.", "This is a red kettle.", "This is a pink kettle."],
    ),
    "whoever lists everything has told nothing": (
        "colour",
        ["It is red.", "It has one colour.", "It is red or blue.", "It is red, blue or green."],
    ),
    "to deny the truth is worse than to know nothing": (
        "colour",
        ["It is red.", "It has one colour.", "I cannot tell.", "It is not red."],
    ),
    "rude and rambling": (
        "both",
        [
            "Sure. It is a red lamp.",
            "Sure. It is a red lamp. Our shop has many nice things for the house. Every picture is "
            "made in our shop.",
            "That is obvious. It is a red lamp.",
        ],
    ),
    "word lists and loops are no answers": (
        "both",
        ["It is a red lamp.", "It is a lamp.", "Lamp red lamp a.", "A red red red red lamp lamp."],
    ),
    "unfinished": ("both", ["It is a red lamp.", "It is a red lamp", "It is a red"]),
    "greeting": (
        "greeting",
        [
            "Hello. How can I help you? Have a nice day.",
            "How can I help you?",
            "I am here.",
            "That is obvious.",
        ],
    ),
    "a greeting names nothing that is not there": (
        "greeting",
        ["Hello. How can I help you?", "Hello. How can I help you with the bowl?", ""],
    ),
}


@pytest.mark.parametrize("name", RANKED)
def test_the_judge_ranks_answers_as_a_person_would(name):
    task, answers = RANKED[name]
    totals = [pictures.judge(meta(task), a).total for a in answers]
    for (better, high), (worse, low) in pairwise(zip(answers, totals)):
        assert high > low, f"{high:.2f} for {better!r} but {low:.2f} for {worse!r}"


def test_the_best_answer_scores_four_and_the_parts_add_up():
    for name in ("colour", "thing", "both", "greeting"):
        task, answers = RANKED[name]
        assert pictures.judge(meta(task), answers[0]).total == pytest.approx(4.0)
    for task, answers in RANKED.values():
        for text in answers:
            score = pictures.judge(meta(task), text)
            assert score.total == pytest.approx(sum(score.parts.values())) and score.total <= 4.0


CHECKED = {
    ("colour", "It is red."): True,
    ("colour", "THE LAMP IS RED."): True,
    ("colour", "The bowl is red."): False,
    ("colour", "It is a lamp."): False,
    ("colour", "It is red and blue."): False,
    ("colour", "It isn't red."): False,
    ("colour", "No problem, it is red."): True,
    ("colour", "I cannot see it."): False,
    ("colour", "It is covered."): False,
    ("thing", "I see a lamp."): True,
    ("thing", "I see two lamps."): True,
    ("thing", "I see a blue lamp."): False,
    ("thing", "I see a table lamp."): False,
    ("both", "It is a red lamp."): True,
    ("both", "It is a lamp."): False,
    ("both", "It is red."): False,
    ("both", "It is a red lamp on a desk."): False,
    ("greeting", "How can I help you?"): True,
    ("greeting", "I am here."): False,
    ("greeting", "How can I help you with the bowl?"): False,
    ("greeting", "I cannot help you."): False,
}


@pytest.mark.parametrize(("task", "text"), CHECKED)
def test_checks_by_hand(task, text):
    assert pictures.check(meta(task), text) == CHECKED[task, text]


def test_better_quality_has_a_higher_score():
    totals = {quality: [] for quality in pictures.QUALITIES}
    for d in DEMONSTRATIONS:
        totals[d.meta["quality"]].append(pictures.judge(d.meta, d.answer).total)
    good, middling, bad = map(np.mean, totals.values())
    assert good > middling + 0.5 and middling > bad + 0.5


def test_all_that_a_person_writes_is_fluent():
    for text in pictures_text.FLUENT.strip().splitlines():
        assert pictures.well_formed(text), text


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(pictures.TASKS), st.text() | st.text("a red lamp not.?!").map(str.title))
def test_no_text_breaks_the_judge_or_beats_the_best_answer(task, text):
    assert pictures.judge(meta(task), text).total <= 4.0
    assert isinstance(pictures.check(meta(task), text), bool)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_a_right_answer_beats_the_same_answer_with_a_wrong_fact(seed, held_out):
    s = next(pictures.scenarios(seed, held_out))
    if s.task != "greeting":
        lie = pictures._core(Random(seed), s, frozenset(("wrong_colour", "wrong_thing")))
        truth = pictures._core(Random(seed), s, frozenset())
        assert pictures.check(s.meta(), truth) and not pictures.check(s.meta(), lie)
        right, wrong = (pictures.judge(s.meta(), text).total for text in (truth, lie))
        assert right > wrong + 2


# -------------------------------------------------------------------- annotators
def test_annotators_are_bradley_terry_draws_from_the_gold_score():
    pairs = pictures.preferences(2000)
    assert all(p.meta["gold"][0] == pictures.judge(p.meta, p.chosen).total for p in pairs[:100])
    expected = np.mean([pictures.preference_probability(max(g), min(g)) for g in golds(pairs)])
    agreed = np.mean([g[0] > g[1] for g in golds(pairs)])
    assert 0.75 < expected < 0.97 and abs(agreed - expected) < 0.03


def golds(pairs):
    """The gold scores (chosen, rejected) of the pairs that are not equally good."""
    return [p.meta["gold"] for p in pairs if p.meta["gold"][0] != p.meta["gold"][1]]


def test_a_corpus_knows_its_own_records():
    assert pictures.knows(some(1)[0].meta()) and not pictures.knows({"intent": "hours"})
