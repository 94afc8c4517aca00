"""Bradley-Terry, its loss and ceiling, calibration and DPO against hand-made cases."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatlib.maths import preference
from chatlib.maths.preference import (
    bayes_accuracy,
    calibration_table,
    dpo_loss,
    expected_calibration_error,
    log_likelihood,
    pairwise_accuracy,
    pairwise_loss,
    preference_probability,
)

SCORES = st.floats(-20, 20)


def test_preference_by_hand():
    p = preference_probability(torch.tensor(math.log(3.0)), torch.tensor(0.0))
    assert p.item() == pytest.approx(0.75)


@given(SCORES, SCORES, st.floats(-50, 50))
def test_only_differences_count_and_the_two_sides_sum_to_one(a, b, shift):
    a, b = torch.tensor([a, b], dtype=torch.float64)
    p = preference_probability(a, b)
    torch.testing.assert_close(p + preference_probability(b, a), torch.ones_like(p))
    torch.testing.assert_close(preference_probability(a + shift, b + shift), p, atol=1e-9, rtol=0)


def test_temperature_is_the_annotators_noise():
    a, b = torch.tensor(1.0), torch.tensor(0.0)
    assert preference_probability(a, b, 0.1) > 0.999
    assert preference_probability(a, b, 100.0).item() == pytest.approx(0.5, abs=0.01)


def test_pairwise_loss_by_hand_and_of_an_ignorant_model():
    zero = torch.zeros(4)
    assert pairwise_loss(zero, zero).item() == pytest.approx(math.log(2))
    loss = pairwise_loss(torch.tensor([math.log(3.0), 0.0]), torch.tensor([0.0, math.log(3.0)]))
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_margin_asks_for_a_gap():
    chosen, rejected = torch.tensor([2.0]), torch.tensor([0.0])
    assert pairwise_loss(chosen, rejected, 2.0).item() == pytest.approx(math.log(2))
    assert pairwise_loss(chosen, rejected, torch.tensor([2.0])) > pairwise_loss(chosen, rejected)


def test_pairwise_loss_is_finite_far_out():
    loss = pairwise_loss(torch.tensor([-1e4]), torch.tensor([1e4]))
    assert loss.item() == pytest.approx(2e4)


def test_pairs_over_ranks_add_up_under_a_global_denominator():
    chosen, rejected = torch.randn(2, 5)
    parts = [pairwise_loss(c, r, denominator=5) for c, r in zip(chosen.split(2), rejected.split(2))]
    torch.testing.assert_close(sum(parts), pairwise_loss(chosen, rejected))


def test_tournament_likelihood_is_the_pairwise_loss_times_pairs():
    scores = torch.tensor([0.3, -1.0, 0.7])
    wins = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0], [3.0, 0.0, 0.0]])
    winners, losers = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([1, 1, 2, 0, 0, 0])
    loss = pairwise_loss(scores[winners], scores[losers])
    assert log_likelihood(scores, wins).item() == pytest.approx(-6 * loss.item(), rel=1e-5)


def test_maximum_likelihood_finds_the_odds():
    """Three wins in four have their maximum where sigmoid(r_0 - r_1) = 3/4."""
    scores = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    wins = torch.tensor([[0.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(log_likelihood(scores, wins), scores)
        scores = (scores + 0.3 * gradient).detach().requires_grad_()
    assert (scores[0] - scores[1]).item() == pytest.approx(math.log(3), abs=1e-6)


def test_a_tie_counts_one_half():
    assert pairwise_accuracy(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 2.0])) == 0.5


def test_bayes_accuracy_is_what_the_gold_reward_reaches_on_noisy_labels():
    torch.manual_seed(0)
    first, second = torch.randn(2, 100_000)
    p = preference_probability(first, second, 0.7)
    first_won = torch.rand_like(p) < p
    reached = ((first > second) == first_won).float().mean()
    assert bayes_accuracy(first, second, 0.7).item() == pytest.approx(reached.item(), abs=0.01)


def test_calibration_table_by_hand():
    probability = torch.tensor([0.1, 0.2, 0.7, 0.9, 1.0])
    outcome = torch.tensor([0, 1, 1, 1, 1])
    table = calibration_table(probability, outcome, bins=2)
    assert table["lower"].tolist() == [0.0, 0.5]
    assert table["count"].tolist() == [2, 3]
    assert table["predicted"].tolist() == pytest.approx([0.15, 2.6 / 3])
    assert table["observed"].tolist() == pytest.approx([0.5, 1.0])
    error = expected_calibration_error(probability, outcome, bins=2)
    assert error.item() == pytest.approx((2 * 0.35 + 3 * (1 - 2.6 / 3)) / 5)


def test_empty_bins_are_zero_and_do_not_count():
    table = calibration_table(torch.tensor([0.95]), torch.tensor([1]), bins=4)
    assert table["count"].tolist() == [0, 0, 0, 1]
    assert table["observed"].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_the_generating_probabilities_are_calibrated():
    torch.manual_seed(1)
    p = torch.rand(50_000)
    outcome = torch.rand(50_000) < p
    assert expected_calibration_error(p, outcome).item() < 0.02
    assert expected_calibration_error(p.sqrt(), outcome).item() > 0.1


def test_dpo_by_hand_and_its_gradient_goes_to_the_policy_alone():
    logp = torch.tensor([-3.0, -5.0], requires_grad=True)
    reference = torch.tensor([-4.0, -4.0], requires_grad=True)
    loss, stats = dpo_loss(logp[:1], logp[1:], reference[:1], reference[1:], beta=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-1.0))))
    assert stats["reward_chosen"].item() == 0.5
    assert stats["accuracy"].item() == 1.0
    assert logp.grad[0] < 0 < logp.grad[1]
    assert reference.grad is None


def test_dpo_of_the_reference_itself_is_ignorant():
    logp = torch.randn(2, 6)
    assert dpo_loss(*logp, *logp)[0].item() == pytest.approx(math.log(2))


def test_ipo_pulls_the_margin_to_a_finite_target():
    """Where all preferences agree, DPO's loss falls with any margin, IPO's turns at 1/(2 beta)."""
    zero = torch.zeros(1, dtype=torch.float64)
    margins = torch.tensor([0.0, 2.0, 5.0, 9.0], dtype=torch.float64)
    ipo = [preference.ipo_loss(m[None], zero, zero, zero, beta=0.1)[0].item() for m in margins]
    dpo = [preference.dpo_loss(m[None], zero, zero, zero, beta=0.1)[0].item() for m in margins]
    assert ipo == pytest.approx([25.0, 9.0, 0.0, 16.0])
    assert dpo == sorted(dpo, reverse=True)


def test_losses_on_pairs_add_up_over_parts():
    torch.manual_seed(0)
    four = torch.randn(4, 6, dtype=torch.float64)
    for loss in (preference.dpo_loss, preference.ipo_loss):
        whole = loss(*four)[0]
        parts = sum(loss(*part, denominator=6)[0] for part in (four[:, :2], four[:, 2:]))
        torch.testing.assert_close(whole, parts)
