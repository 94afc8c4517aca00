"""Attention as alignment: places are found in any script, a head is judged by where it looks."""

import pytest
import torch

from chatlib.data import chinese, template
from chatlib.evaluate import alignment


@pytest.fixture(scope="module")
def tokenizer():
    return template.train_tokenizer([text for pair in chinese.pairs(300) for text in pair], 600)


def pieces_of(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    "text, word",
    [
        ("订单 134 预计星期三送达。", "星期三"),
        ("订单 134 预计星期三送达。", "134"),
        ("in 13 or 3 days", "3"),
    ],
)
def test_the_tokens_of_a_word_hold_it_and_no_fewer_do(tokenizer, text, word):
    pieces = pieces_of(tokenizer, text)
    places = alignment.found(pieces, word, 0, len(pieces))
    ids = [tokenizer.convert_tokens_to_ids(pieces[i]) for i in places]
    assert word in tokenizer.decode(ids)
    assert word not in tokenizer.decode(ids[1:]) and word not in tokenizer.decode(ids[:-1])
    assert places == list(range(places[0], places[-1] + 1))


def test_a_number_is_not_found_inside_another_one(tokenizer):
    pieces = pieces_of(tokenizer, "in 13 days")
    assert alignment.found(pieces, "3", 0, len(pieces)) == []
    assert alignment.found(pieces, "13", 0, 0) == []


def pair(spot, places, looks, prompt=6, heads=2):
    attention = torch.zeros(1, heads, 10, 10)
    for head, place in enumerate(looks):
        attention[0, head, spot, place] = 1.0
    return alignment.Linked(["x"] * 10, prompt, {spot: places}, attention)


def test_a_head_is_right_where_it_looks_most_at_the_word():
    pairs = [pair(7, [2, 3], [3, 0]), pair(8, [1], [1, 1]), pair(6, [5], [4, 5])]
    assert alignment.hits(pairs).tolist() == [[2 / 3, 2 / 3]]
    assert alignment.chance(pairs) == pytest.approx((2 / 6 + 1 / 6 + 1 / 6) / 3)


def test_what_lies_in_the_answer_is_not_looked_at():
    one = pair(7, [2], [2, 2])
    one.attention[0, :, 7, 8] = 5.0  # the answer's own tokens
    assert alignment.hits([one]).tolist() == [[1.0, 1.0]]
