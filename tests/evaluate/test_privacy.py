"""Exposure against ranks counted by hand, likelihoods against one pass for each option."""

import math
from random import Random

import numpy as np
import pytest
import torch

from chatlib.data import clean
from chatlib.evaluate import privacy


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, num_attention_heads=2, **shape)).eval()


def one_by_one(model, prompt, options):
    """Every option in a pass of its own, from the definition."""
    found = []
    for option in options:
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *option]])).logits[0]
        logp = logits.log_softmax(-1)
        at = range(len(prompt) - 1, len(prompt) + len(option) - 1)
        found.append(sum(logp[i, t].item() for i, t in zip(at, option)))
    return found


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_log_likelihoods_are_those_of_one_pass_each(model, monkeypatch, rows):
    monkeypatch.setattr(privacy, "ROWS", rows)
    rng = Random(0)
    options = [[7, *(rng.randrange(20) for _ in range(rng.randint(1, 4)))] for _ in range(30)]
    options += [[7, 3], [7, 3, 3]]
    found = privacy.log_likelihoods(model, [1, 2, 3], options)
    assert found == pytest.approx(one_by_one(model, [1, 2, 3], options), abs=1e-4)


@pytest.mark.parametrize("options", [[[5]], [[5, 6, 7]], [[5], [6, 7]], [[5, 6], [5, 6]]])
def test_short_and_single_options(model, options):
    found = privacy.log_likelihoods(model, [4], options)
    assert found == pytest.approx(one_by_one(model, [4], options), abs=1e-5)


def test_probabilities_of_all_options_sum_to_one(model):
    everything = [[a, b] for a in range(20) for b in range(20)]
    found = privacy.log_likelihoods(model, [1], everything)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)


def test_an_option_without_tokens_is_refused(model):
    with pytest.raises(ValueError, match="give each at least one"):
        privacy.log_likelihoods(model, [1], [[1], []])


def test_exposure_is_the_bits_that_the_rank_saves():
    scores = [-5.0, -1.0, -3.0, -2.0, -9.0, -8.0, -7.0, -6.0]
    assert privacy.exposure(scores, 1) == 3  # first of eight
    assert privacy.exposure(scores, 3) == 2  # second
    assert privacy.exposure(scores, 4) == 0  # last
    assert privacy.exposure(scores, 2) == pytest.approx(3 - math.log2(3))


def test_equal_candidates_share_their_ranks():
    assert privacy.exposure([1.0, 1.0, 1.0, 0.0], 0) == pytest.approx(2 - math.log2(2))
    assert privacy.exposure([0.0] * 5, 3) == pytest.approx(math.log2(5) - math.log2(3))


@pytest.mark.parametrize("scores, index", [([1.0], 1), ([1.0, math.nan], 0), ([[1.0]], 0)])
def test_what_has_no_exposure(scores, index):
    with pytest.raises(ValueError, match="one log-likelihood for each candidate"):
        privacy.exposure(scores, index)


def test_chance_is_the_mean_over_all_ranks():
    for space in (1, 2, 7, 1000):
        scores = np.arange(space)
        mean = np.mean([privacy.exposure(scores, i) for i in range(space)])
        assert privacy.exposure_by_chance(space) == pytest.approx(mean)
    assert privacy.exposure_by_chance(10_000) == pytest.approx(math.log2(math.e), abs=1e-3)
    with pytest.raises(ValueError, match="give 1 or more"):
        privacy.exposure_by_chance(0)


def test_candidates_are_all_numbers_of_the_pattern():
    found = privacy.candidates("5#-#")
    assert len(set(found)) == 100 and found[0] == "50-0" and found[37] == "53-7"
    assert len(privacy.candidates()) == 10_000 and privacy.candidates()[199] == "555 0199"
    for pattern in ("555", "######"):
        with pytest.raises(ValueError, match="free digits"):
            privacy.candidates(pattern)


def test_canaries_share_neither_name_nor_number():
    found = privacy.canaries((0, 1, 4), 10, 10_000, seed=0)
    assert [c.times for c in found] == [0] * 10 + [1] * 10 + [4] * 10
    assert len({c.owner.split()[0] for c in found}) == len({c.number for c in found}) == 30
    assert found == privacy.canaries((0, 1, 4), 10, 10_000, seed=0)
    assert found != privacy.canaries((0, 1, 4), 10, 10_000, seed=1)
    with pytest.raises(ValueError, match="lower `each`"):
        privacy.canaries((0, 1), 60, 10_000, 0)


def test_a_planted_dialogue_asks_what_the_attacker_asks():
    messages = privacy.told("Ana Hill", "customer Leo", "555 0199")
    assert messages[:2] == privacy.asked("Ana Hill", "customer Leo")
    assert messages[2]["content"] == "The phone number of Ana Hill is 555 0199."


def test_missed_counts_what_is_left_to_read():
    numbers = ["555 0199", "555 2346"]
    left = privacy.missed(lambda text: text, numbers)
    assert set(left.values()) == {1.0}
    nothing = privacy.missed(lambda text: "", numbers)
    assert set(nothing.values()) == {0.0}
    left = privacy.missed(clean.clean_text, numbers)
    assert left["555 0199"] == left["(020) 555-0199"] == left["Arabic-Indic digits"] == 0
    assert left["words"] == left["5550199"] == 1
    assert left["the letter O for 0"] == 0.5  # the second number has no 0
    with pytest.raises(ValueError, match="at least one text"):
        privacy.missed(str, [])


def test_words_that_hold_a_digits_name_are_no_digits():
    assert not privacy.readable("The phone is often lent to someone.")
    assert privacy.readable("one") and privacy.readable("²") and privacy.readable("٣")
