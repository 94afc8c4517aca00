"""A judge's biases are found again as they were set; likelihood is that of the answer alone."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chatlib.data import template
from chatlib.evaluate import rulers
from chatlib.evaluate.rulers import BiasedJudge, biases, log_likelihood

N = 40_000


def pairs(gold=0.0, words=0.0):
    rng = np.random.default_rng(0)
    return rng.normal(gold, 1, N), rng.normal(words, 3, N), rng.choice([-1.0, 1.0], N)


def test_without_biases_it_is_the_annotator_of_bradley_and_terry():
    judge = BiasedJudge(position=0, length=0, temperature=0.7)
    assert judge.chance(0.7, 5) == pytest.approx(1 / (1 + math.exp(-1)))


def test_shown_first_and_shown_second_mirror_each_other():
    judge = BiasedJudge(position=0.8, length=0.2)
    zero, up, down = np.zeros(N), np.ones(N), -np.ones(N)
    first, second = (judge.compare(zero, zero, place).mean() for place in (up, down))
    assert first == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.01)
    assert first + second == pytest.approx(1, abs=0.02)


def test_both_orders_cancel_the_place_and_not_the_length():
    judge, zero = BiasedJudge(position=2, length=0.2), np.zeros(N)
    place = np.where(np.arange(N) % 2, 1.0, -1.0)
    assert judge.compare(zero, zero, place).mean() == pytest.approx(0.5, abs=0.01)
    assert judge.compare(zero, zero + 5, place).mean() > 0.55


def test_the_biases_that_were_set_are_found():
    gold, words, place = pairs()
    judge = BiasedJudge(position=0.9, length=0.15, temperature=1e9)  # blind to gold
    found = biases(judge.compare(gold, words, place), place, words)
    assert found == pytest.approx((0.0, 0.9, 0.15), abs=0.05)


def test_a_length_that_was_not_asked_for_is_taken_out_of_the_win_rate():
    _, words, place = pairs(words=6)
    judge = BiasedJudge(position=0.5, length=0.15)
    won = judge.compare(np.zeros(N), words, place)
    assert won.mean() > 0.65
    assert biases(won, place, words).ours == pytest.approx(0, abs=0.1)


def test_verdicts_that_are_all_alike_are_refused():
    with pytest.raises(ValueError, match="show ours first and second"):
        biases([1, 0, 1], [1, 1, 1], [0, 1, 2])


def test_likelihood_counts_the_answer_and_its_end_and_no_padding():
    """A model that is certain of the right next token except for one that it gives 1/2."""
    prompts = [[{"role": "user", "content": "Hello!"}]] * 2
    answers = ["Hi Ada, how can I help you today?", "Hi."]
    tokenizer = template.train_tokenizer(["Hello!", *answers], 300)

    class Halves:
        device = torch.device("cpu")

        def __call__(self, input_ids, attention_mask):
            logits = torch.full((*input_ids.shape, len(tokenizer)), -1e9)
            follows = input_ids.roll(-1, 1)
            logits.scatter_(2, follows[:, :, None], 0.0)
            logits[:, :, tokenizer.eos_token_id] = 0.0  # the end is as likely everywhere
            return SimpleNamespace(logits=logits)

    found = log_likelihood(Halves(), tokenizer, prompts, answers)
    lengths = [len(a) for a in template.encode_answers(tokenizer, prompts, answers)]
    assert found == pytest.approx([-math.log(2) * (n - 1) / n for n in lengths])


def test_everything_public_is_tested_here():
    public = {n for n, f in vars(rulers).items() if getattr(f, "__module__", "") == rulers.__name__}
    assert public - {"Bias"} <= set(globals())
