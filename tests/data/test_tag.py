"""Tagging: the scores by hand, the decision list on the shop, and spans carried to subwords."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlib.data import shop, tag, template
from chatlib.data.segment import word_spans
from chatlib.data.tag import DecisionList, Scores


def test_shapes():
    assert [tag.shape(w) for w in ("314", "Ana", "is", ",")] == ["ddd", "Xx", "x", ","]


def test_the_most_reliable_clue_decides_and_says_so():
    help_is = [
        (["can", "I", "help", "?"], ["AUX", "PRON", "VERB", "PUNCT"]),
        (["the", "help", "came"], ["DET", "NOUN", "VERB"]),
        (["can", "you", "help", "me"], ["AUX", "PRON", "VERB", "PRON"]),
    ]
    tagger = DecisionList.fit(help_is)
    assert tagger.tag(["the", "help"]) == ["DET", "NOUN"]
    assert tagger.tag(["you", "help"])[1] == "VERB"
    assert tagger.tag(["can", "I", "go"]) == ["AUX", "PRON", "VERB"]
    assert tagger.reasons(["the", "zebra"])[1].clue == ("left, shape", "the", "x")
    assert DecisionList({}).tag(["x"]) == ["O"]


def test_the_share_is_smoothed():
    rules = DecisionList.fit([(["a"], ["X"]), (["a"], ["X"]), (["a"], ["Y"])]).rules
    assert rules[("word", "a")] == (("word", "a"), "X", 2.5 / 4, 3)


# --- spans

LABELS = ["NAME", "ORDER"]


@st.composite
def annotated_words(draw):
    """Words, and spans over whole words with a gap of a word between them."""
    words = draw(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=12))
    text = " ".join(words)
    offsets = word_spans(text)
    spans, i = [], 0
    while i < len(words):
        n = draw(st.integers(0, 2))
        if n:
            last = min(i + n, len(words)) - 1
            spans.append((offsets[i][0], offsets[last][1], draw(st.sampled_from(LABELS))))
        i += n + 1
    return text, offsets, spans


@given(annotated_words())
def test_spans_survive_the_way_to_words_and_back(case):
    text, offsets, spans = case
    assert tag.spans_of(tag.labels_of(spans, offsets), offsets, text) == spans


@pytest.fixture(scope="module")
def tokenizer():
    texts = [m["content"] for d in shop.demonstrations(300) for m in d.messages]
    return template.train_tokenizer(texts, 600)


def test_spans_survive_the_way_to_subwords_and_back(tokenizer):
    for text, spans in tag.annotated(shop.demonstrations(200, seed=7, held_out=True)):
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        labels = tag.labels_of(spans, offsets)
        assert sorted(tag.spans_of(labels, offsets, text)) == sorted(spans)


def test_special_tokens_are_outside():
    assert tag.labels_of([(0, 3, "NAME")], [(0, 0), (0, 2), (2, 3), (3, 4)]) == [
        "O",
        "NAME",
        "NAME",
        "O",
    ]


def test_roles_follow_the_template(tokenizer):
    dialogue = shop.demonstrations(1, seed=1)[0]
    encoded = template.encode(tokenizer, [dialogue.messages])[0]
    roles = tag.role_tags(tokenizer, encoded.ids)
    assert list(dict.fromkeys(roles)) == ["system", "user", "assistant"]
    answers = [r == "assistant" for r in roles]
    # the mask is the assistant's turns without the token that opens each
    opening = tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert [a and i != opening for a, i in zip(answers, encoded.ids)] == list(
        map(bool, encoded.mask)
    )


# --- scores


def test_scores_by_hand():
    gold = [[(0, 3, "NAME"), (5, 8, "ORDER")], [(0, 1, "NAME")]]
    found = [[(0, 3, "NAME"), (5, 7, "ORDER")], []]
    scores = tag.score_spans(gold, found)
    assert scores["NAME"] == Scores(1.0, 0.5, 2 / 3, 2)
    assert scores["ORDER"] == Scores(0.0, 0.0, 0.0, 1)
    assert scores["all"] == Scores(1 / 2, 1 / 3, 2 / 5, 3)
    assert tag.score_spans([[]], [[]]) == {"all": Scores(0.0, 0.0, 0.0, 0)}
    with pytest.raises(ValueError, match="1 texts with gold spans, 0 with found"):
        tag.score_spans([[]], [])


def test_accuracy_by_hand():
    assert tag.accuracy([["A", "B"], ["A"]], [["A", "A"], ["A"]]) == 2 / 3
    with pytest.raises(ValueError):
        tag.accuracy([["A", "B"]], [["A"]])


def test_entities_of_the_shop_are_found_with_names_never_seen():
    tagger = tag.fit_entities(tag.annotated(shop.demonstrations(300, seed=0)))
    texts, gold = zip(*tag.annotated(shop.demonstrations(200, seed=1, held_out=True)))
    scores = tag.score_spans(list(gold), [tag.find_entities(tagger, text) for text in texts])
    assert scores["all"].f1 > 0.97
    assert scores["NAME"].recall > 0.95
    nothing = tag.score_spans(list(gold), [[] for _ in texts])
    assert nothing["all"].f1 == 0


def classes(dialogues):
    pairs = [shop.word_classes(marked) for d in dialogues for marked in d.meta["marked"]]
    return [([w for w, _ in p], [c for _, c in p]) for p in pairs]


def test_word_classes_of_the_shop():
    tagger = DecisionList.fit(classes(shop.demonstrations(100, seed=0)))
    held_out = classes(shop.demonstrations(100, seed=1, held_out=True))
    gold = [labels for _, labels in held_out]
    assert tag.accuracy(gold, [tagger.tag(words) for words, _ in held_out]) > 0.97
    assert tag.accuracy(gold, [["NOUN"] * len(labels) for labels in gold]) < 0.4


def test_chinese_word_classes():
    assert tag.chinese_classes("我的订单在哪里？") == [
        ("我", "r"),
        ("的", "uj"),
        ("订单", "n"),
        ("在", "p"),
        ("哪里", "r"),
        ("？", "x"),
    ]
