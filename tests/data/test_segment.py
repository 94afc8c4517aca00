"""Segmentation: nothing but spaces is lost, Chinese is cut, and BPE equals the library's."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.data import segment, shop
from chatlib.data.readers import read


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't ship order 314!", ["Don't", "ship", "order", "314", "!"]),
        ("It's 3.50 euros, i.e. 1,000.", ["It's", "3.50", "euros", ",", "i", ".", "e"]),
        ("Zoë’s kettle", ["Zoë’s", "kettle"]),
        ("我的订单123在哪里？", ["我", "的", "订单", "123", "在", "哪里", "？"]),
        ("", []),
    ],
)
def test_words(text, words):
    assert segment.words(text)[: len(words)] == words


def test_language_is_seen_and_can_be_named():
    assert segment.is_chinese("ok，好") and not segment.is_chinese("Zoë")
    assert segment.words("我的订单", "en") == ["我的订单"]
    with pytest.raises(ValueError, match="'fr' is unknown; use en or zh"):
        segment.words("bonjour", "fr")


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("ab1 .,'我的订单在哪里？\n\u3000é😀_")))
def test_spans_are_in_order_and_cover_all_but_spaces(text):
    spans = segment.word_spans(text)
    assert all(i < j for i, j in spans)
    assert all(j <= k for (_, j), (k, _) in itertools.pairwise(spans))
    covered = {n for i, j in spans for n in range(i, j)}
    assert {n for n, c in enumerate(text) if not c.isspace()} <= covered


def test_the_shop_s_own_words_agree():
    for dialogue in shop.demonstrations(200, seed=5):
        for message in dialogue.messages:
            assert segment.words(message["content"]) == shop.words(message["content"])


def test_the_shops_chinese_is_cut_into_words_of_plausible_length():
    raw = [item["clean"][-1]["content"] for item in shop.raw(2000) if item["language"] == "zh"]
    words = [w for answer in raw for w in segment.words(answer) if segment.is_chinese(w)]
    assert len(raw) > 50 and 1.4 < sum(map(len, words)) / len(words) < 2.2


def test_real_chinese_is_cut_into_words_of_plausible_length(real):
    answers = [record.answer for record in read(real / "alpaca_zh_demo.json", limit=50).records]
    words = [w for answer in answers for w in segment.words(answer) if segment.is_chinese(w)]
    assert 1.4 < sum(map(len, words)) / len(words) < 2.2


def test_stop_words_and_punctuation_go():
    assert segment.without_stop_words("Your order 314 is not due.") == "order 314 due"


# --- byte-pair encoding


def test_the_example_of_sennrich_et_al():
    counts = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    merges = segment.learn_merges(counts, 5)
    assert merges[:3] == [("e", "s"), ("es", "t"), ("l", "o")]
    assert segment.apply_merges("lowest", merges) == ["low", "est"]


def test_merging_is_from_the_left():
    assert segment.merge(list("aaab"), ("a", "a")) == ["aa", "a", "b"]
    assert segment.learn_merges({"ab": 1}, 9) == [("a", "b")]


def test_merges_equal_those_of_the_library():
    tokenizers = pytest.importorskip("tokenizers")
    texts = [m["content"] for d in shop.demonstrations(100) for m in d.messages]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    counts = Counter(word for text in texts for word in segment.words(text))
    alphabet = {c for word in counts for c in word}
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(alphabet) + 200, show_progress=False, min_frequency=0
    )
    bpe.train_from_iterator([" ".join(counts.elements())], trainer)
    merges = segment.learn_merges(counts, 200)
    for word in list(counts)[:300]:
        assert segment.apply_merges(word, merges) == bpe.encode(word).tokens


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 5), min_size=1), st.text("abcd"))
def test_subwords_spell_the_word(counts, word):
    assert "".join(segment.apply_merges(word, segment.learn_merges(counts, 10))) == word
