"""The small decisions of chapter 17's experiment."""

import pytest

from chatlib.book.experiments import outlook
from chatlib.data import chinese, pictures, shop
from chatlib.evaluate import uses


@pytest.mark.parametrize(("corpus", "module"), [("shop", shop), ("shop-zh", chinese)])
def test_only_dialogues_with_right_facts_are_learnt_from(corpus, module):
    found = outlook.drawn(corpus, 40, seed=3)
    parts = [module.judge(d.meta, d.messages[-1]["content"]).parts for d in found]
    assert len(found) == 40 and {p["facts"] for p in parts} == {2}
    assert not any(p["invented"] or p["leak"] for p in parts)
    assert not all(outlook.right(module, d) for d in module.demonstrations(40, seed=3))


def test_arms_differ_in_what_they_read_and_not_in_how_much():
    sizes = {arm: sum(n for _, n in of) for arm, of in outlook.ARMS.items()}
    assert sizes["Chinese"] == sizes["a third, and English"] == 3 * sizes["a third"]
    assert {of[0] for of in outlook.ARMS["a third, and English"]} == {"shop-zh", "shop"}


def test_the_longer_arm_reads_each_chinese_dialogue_as_often_as_the_third_alone():
    """And reads the same dialogues as the mixed one."""
    mixed, longer = "a third, and English", "the same, longer"
    assert outlook.ARMS[longer] == outlook.ARMS[mixed]
    total = sum(n for _, n in outlook.ARMS[longer])
    third = sum(n for _, n in outlook.ARMS["a third"])
    assert outlook.LONGER[longer] / total == outlook.LANGUAGE_STEPS / third


def test_facts_of_a_sentence_are_paired_with_their_translation():
    assert outlook.facts_of("It is due Friday, order 512, and 512 again.") == [
        ("512", "512"),
        (chinese.word("day", "Friday"), "Friday"),
    ]


def test_a_picture_is_named_only_by_the_right_word_alone():
    cases = [c for c in uses.scenarios("pictures", 40) if c.task == "colour"][:3]
    colours = [c.picture.colour for c in cases]
    answers = [f"It is {colours[0]}.", "It is red or blue or green.", "I cannot say."]
    assert outlook.named(cases, answers, "colour")["value"] == pytest.approx(1 / 3, abs=1e-3)
    assert pictures.mentions(answers[0])["colour"] == {colours[0]}
