"""The probability of an answer is that of the process that writes it, whichever way it was made."""

import math
from collections import Counter
from itertools import islice
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chatlib.data import shop
from chatlib.data.template import Encoded
from chatlib.evaluate import floor

CASES = list(islice(shop.scenarios(5), 60))


def case_of(intent):
    return next(case for case in CASES if case.intent == intent)


@pytest.mark.parametrize("intent", ["greeting", "order_status", "private_data"])
def test_probabilities_are_the_frequencies_of_the_simulator(intent):
    case, rng, n = case_of(intent), Random(1), 3000
    drawn = Counter(shop.plain(shop.answer(rng, case)[0]) for _ in range(n))
    for text, count in drawn.most_common(6):
        p = math.exp(floor.answer_log_probability(case, text))
        assert abs(count / n - p) < 4.5 * math.sqrt(p * (1 - p) / n), text


@pytest.mark.parametrize("intent", shop.INTENTS)
def test_the_sentences_that_answer_have_probabilities_that_sum_to_1(intent):
    for column in range(len(shop.QUALITIES)):
        odds = {flaw: rates[column] for flaw, rates in shop.FLAWS.items()}
        assert sum(floor._cores(case_of(intent), odds).values()) == pytest.approx(1)


def test_all_that_may_follow_a_salutation_adds_up_to_the_salutation():
    case, column = case_of("greeting"), 2
    odds = {flaw: rates[column] for flaw, rates in shop.FLAWS.items()}
    found = sum(p for p, _ in floor._wholes(case, odds, f"Hello {case.customer},"))
    assert found == pytest.approx((1 - odds["no_salutation"]) / 2 * (1 - odds["rude"] / 2))


def test_every_answer_of_the_simulator_is_possible_cut_ones_included():
    rng, cut = Random(3), 0
    for case in islice(shop.scenarios(6), 400):
        text, made = shop.answer(rng, case)
        found = floor.answer_log_probability(case, shop.plain(text))
        assert -60 < found < 0, text
        cut += "cut_off" in made["flaws"]
    assert cut


def test_what_nobody_writes_is_impossible():
    case = case_of("hours")
    assert floor.answer_log_probability(case, "It rains.") == -math.inf
    assert floor.answer_log_probability(case, "") == -math.inf


def test_nats_of_a_fair_die_count_the_answers_tokens_only():
    class Die:
        device = "cpu"

        def __call__(self, input_ids):
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 6))

    examples = [Encoded([1, 2, 3], [0, 1, 1]), Encoded([1, 2, 3, 4, 5], [0, 0, 1, 1, 1])]
    found = floor.answer_nats(Die(), examples, pad=0, batch_size=1)
    np.testing.assert_allclose(found, [2 * math.log(6), 3 * math.log(6)], rtol=1e-6)


def test_nats_are_shifted_by_one():
    class Echo:  # is sure that the token just read comes next
        device = "cpu"

        def __call__(self, input_ids):
            return SimpleNamespace(logits=50.0 * torch.nn.functional.one_hot(input_ids, 6).float())

    stays, moves = Encoded([4, 4, 4], [0, 1, 1]), Encoded([3, 4, 5], [0, 1, 1])
    found = floor.answer_nats(Echo(), [stays, moves], pad=0)
    np.testing.assert_allclose(found, [0, 100], atol=1e-3)


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    found = floor.per_token([2.0, 2.0], [1, 3])
    assert found.value == 1.0
    assert found.low <= 1.0 <= found.high
