import math

import pytest

from chatlib.evaluate import overlap

REFERENCE = "your order 214 is shipped and due on Friday ."


def test_bleu_of_the_reference_is_100():
    score = overlap.bleu([REFERENCE], [REFERENCE])
    assert score["bleu"] == pytest.approx(100)
    assert score["brevity"] == score["length_ratio"] == 1


def test_bleu_by_hand():
    """'a b c d e' against 'a b c d x': precisions 4/5, 3/4, 2/3, 1/2."""
    score = overlap.bleu(["a b c d e"], ["a b c d x"])
    by_hand = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert score["bleu"] == pytest.approx(100 * by_hand)
    assert [score[f"p{n}"] for n in (1, 2, 3, 4)] == pytest.approx([80, 75, 200 / 3, 50])


def test_bleu_brevity_penalty_by_hand():
    """Five of eight words, all right: only the brevity exp(1 - 8/5) is left."""
    score = overlap.bleu(["a b c d e"], ["a b c d e f g h"])
    assert score["bleu"] == pytest.approx(100 * math.exp(1 - 8 / 5))


def test_bleu_takes_the_best_of_several_references_of_unequal_number():
    answers = ["a b c d", "e f g h"]
    assert overlap.bleu(answers, [["x y z w", "a b c d"], ["e f g h"]])["bleu"] == (
        pytest.approx(100)
    )


def test_rouge_l_by_hand():
    """LCS of 'a b c d' and 'a c d x y' is 3: precision 3/4, recall 3/5."""
    row = overlap.per_answer(["a b c d"], ["a c d x y"]).iloc[0]
    assert row["rougeL"] == pytest.approx(100 * 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert overlap.rouge(["a b c d"], ["a c d x y"])["rougeL"] == pytest.approx(row["rougeL"])


def test_words_cut_english_as_rouge_score_does():
    from rouge_score.tokenizers import DefaultTokenizer

    text = "Dear Ada, your order's 214: it isn't SHIPPED yet -- e-mail us!"
    assert overlap.Words().tokenize(text) == DefaultTokenizer().tokenize(text)


def test_chinese_scores_where_the_default_tokenizer_sees_nothing():
    from rouge_score.rouge_scorer import RougeScorer

    answer, reference = "您的订单214周五到", "您的订单214周日到"
    default = RougeScorer(["rouge1"]).score("您的订单周日到", "您的订单周五到")["rouge1"].fmeasure
    row = overlap.per_answer([answer], [reference], "zh").iloc[0]
    assert default == 0
    assert row["rouge1"] == pytest.approx(100 * 7 / 8)
    assert row["bleu"] > overlap.per_answer([answer], [reference], "en").iloc[0]["bleu"]


def test_overlap_does_not_see_whether_a_fact_is_right():
    """One wrong number costs as much as one other word."""
    wrong_fact, other_word = REFERENCE.replace("214", "215"), REFERENCE.replace("your", "the")
    scores = overlap.per_answer([wrong_fact, other_word], [REFERENCE] * 2)
    assert scores["rouge1"][0] == scores["rouge1"][1]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: overlap.bleu([], []), "`answers` is empty"),
        (lambda: overlap.bleu(["a"], []), "1 answers but 0 references"),
        (lambda: overlap.bleu(["a"], ["a"], "fr"), "`language` is 'fr'; use one of en, zh"),
    ],
)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_empty_answer_scores_zero_and_is_counted():
    table = overlap.per_answer(["", REFERENCE], [REFERENCE] * 2)
    assert len(table) == 2 and (table.iloc[0] == 0).all()
