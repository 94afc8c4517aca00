"""Every equation-level row of the PPO acceptance table, held against enumeration or by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.maths.likelihood import masked_mean, whiten
from chatlib.maths.policy import (
    adaptive_beta,
    aggregate,
    exact_kl,
    explained_variance,
    final_score,
    gae,
    group_advantages,
    kl_estimate,
    policy_loss,
    reinforce_loss,
    rewards_to_go,
    rloo_advantages,
    shaped_rewards,
    value_loss,
)

SHAPE = (4, 6)
LENGTHS = torch.tensor([6, 1, 4, 2])


def lengths_mask(lengths=LENGTHS, T=6):
    return (torch.arange(T) < lengths[:, None]).long()


def batch(seed=0):
    """logp, old_logp, advantages, values, old_values, returns: (4, 6) each, and their mask."""
    torch.manual_seed(seed)
    tensors = list(0.5 * torch.randn(6, *SHAPE, dtype=torch.float64))
    return tensors, lengths_mask()


# --- KL on a language of three tokens --------------------------------------------------------

LOGITS = torch.tensor([0.2, -1.0, 0.7], dtype=torch.float64)
REF_LOGITS = torch.tensor([-0.5, 0.4, 0.1], dtype=torch.float64)


def enumerated_gradient(loss_of_logp):
    """Gradient of ``sum_v p_v loss(log p_v)`` where p_v counts as data, by autograd."""
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)
    (logp.exp().detach() * loss_of_logp(logp)).sum().backward()
    return logits.grad


def exact_kl_gradient(first, second, wanted):
    leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    exact_kl(*leaves).backward()
    return leaves[wanted].grad


def test_expectations_of_k1_and_k3_are_the_kl_and_k2_is_biased():
    logp, ref = LOGITS.log_softmax(-1), REF_LOGITS.log_softmax(-1)
    expected = {k: (logp.exp() * kl_estimate(logp, ref, k)).sum() for k in ("k1", "k2", "k3")}
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=LOGITS),
        torch.distributions.Categorical(logits=REF_LOGITS),
    )
    torch.testing.assert_close(exact_kl(LOGITS, REF_LOGITS), kl)
    torch.testing.assert_close(expected["k1"], kl)
    torch.testing.assert_close(expected["k3"], kl)
    assert abs(expected["k2"] - kl) > 0.01


def test_signs_of_the_kl_estimators():
    logp, ref = LOGITS.log_softmax(-1), REF_LOGITS.log_softmax(-1)
    assert torch.equal(kl_estimate(logp, ref, "k1"), logp - ref)
    assert kl_estimate(logp, ref, "k1").min() < 0
    assert kl_estimate(logp, ref, "k2").min() > 0
    assert kl_estimate(logp, ref, "k3").min() > 0
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(logp, ref, "k4")


def test_k3_keeps_its_digits_where_the_policies_nearly_agree():
    """exp(-d) - 1 + d would be rounding there: fp32 against float64, from one nat to almost 0."""
    d = torch.logspace(-5, 0, 40)
    for signed in (d, -d):
        exact = kl_estimate(signed.double(), torch.zeros(40).double(), "k3")
        found = kl_estimate(signed, torch.zeros(40), "k3")
        assert found.min() >= 0
        error = (found.double() - exact).abs() / exact
        assert error[d > 1e-3].max() < 1e-3


def test_k1_as_a_loss_has_zero_expected_gradient():
    ref = REF_LOGITS.log_softmax(-1)
    gradient = enumerated_gradient(lambda logp: kl_estimate(logp, ref, "k1"))
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64))


def test_k2_as_a_loss_has_exactly_the_gradient_of_the_kl():
    ref = REF_LOGITS.log_softmax(-1)
    gradient = enumerated_gradient(lambda logp: kl_estimate(logp, ref, "k2"))
    torch.testing.assert_close(gradient, exact_kl_gradient(LOGITS, REF_LOGITS, 0))
    assert gradient.abs().max() > 0.01


def test_k3_as_a_loss_has_the_gradient_of_the_reverse_kl():
    ref = REF_LOGITS.log_softmax(-1)
    gradient = enumerated_gradient(lambda logp: kl_estimate(logp, ref, "k3"))
    torch.testing.assert_close(gradient, exact_kl_gradient(REF_LOGITS, LOGITS, 1))


def test_reinforce_has_the_gradient_of_the_expected_reward():
    """Policy gradient by enumeration: the gradient of J = sum_v p_v r_v."""
    reward = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    logits = LOGITS.clone().requires_grad_()
    (logits.softmax(-1) * reward).sum().backward()
    weighted = enumerated_gradient(
        lambda logp: torch.stack(
            [
                reinforce_loss(l.view(1, 1), r.view(1, 1), torch.ones(1, 1))
                for l, r in zip(logp, reward)
            ]
        )
    )
    torch.testing.assert_close(-weighted, logits.grad)


# --- the shaped reward -----------------------------------------------------------------------


def test_pad_is_not_eos_the_end_token_carries_the_score():
    """ids [5, 6, eos, pad]: lengths make the mask, so EOS is an action and is paid."""
    eos, pad = 2, 0
    ids = torch.tensor([[5, 6, eos, pad]])
    mask = lengths_mask(torch.tensor([3]), 4)
    rewards = shaped_rewards(torch.tensor([1.5]), torch.zeros(1, 4), mask, beta=0.1)
    assert rewards.tolist() == [[0.0, 0.0, 1.5, 0.0]]
    assert ids[0, rewards.argmax()] == eos
    logp = torch.zeros(1, 4, requires_grad=True)
    policy_loss(logp, torch.zeros(1, 4), rewards, mask)[0].backward()
    assert (logp.grad != 0).tolist() == [[False, False, True, False]]


def test_score_is_paid_at_the_last_valid_token_whatever_the_tail():
    kl = torch.full((2, 5), 0.5)
    mask = lengths_mask(torch.tensor([2, 5]), 5)
    rewards = shaped_rewards(torch.tensor([3.0, -1.0]), kl, mask, beta=0.2)
    expected = torch.tensor([[-0.1, 2.9, 0, 0, 0], [-0.1, -0.1, -0.1, -0.1, -1.1]])
    torch.testing.assert_close(rewards, expected)
    tail = shaped_rewards(torch.tensor([3.0, -1.0]), kl.masked_fill(mask == 0, math.nan), mask, 0.2)
    assert torch.equal(tail, rewards)


def test_an_empty_answer_gets_no_reward():
    assert shaped_rewards(torch.ones(1), torch.ones(1, 3), torch.zeros(1, 3), 0.1).eq(0).all()


def test_missing_eos_costs_exactly_the_penalty_even_at_the_clip():
    score = torch.tensor([0.3, 9.0, 0.3, 9.0])
    ended = torch.tensor([True, True, False, False])
    final = final_score(score, ended, missing_eos_penalty=1.0, clip=5.0)
    assert (final[:2] - final[2:]).tolist() == pytest.approx([1.0, 1.0])
    assert final.tolist() == pytest.approx([0.3, 5.0, -0.7, 4.0])


def test_score_is_clipped_before_the_kl_is_added():
    """A KL far beyond the clip arrives whole."""
    score = final_score(torch.tensor([50.0]), torch.tensor([True]), clip=5.0)
    rewards = shaped_rewards(score, torch.tensor([[100.0, 100.0]]), torch.ones(1, 2), beta=1.0)
    assert rewards.tolist() == [[-100.0, -95.0]]


# --- advantages ------------------------------------------------------------------------------


def brute_force_gae(rewards, values, length, gamma, lam):
    """O(n^2): the lambda-weighted mean of all n-step advantages, written out."""
    V = [*values[:length], 0.0]
    result = []
    for t in range(length):
        steps = range(1, length - t + 1)
        n_step = [
            sum(gamma**k * rewards[t + k] for k in range(n)) + gamma**n * V[t + n] - V[t]
            for n in steps
        ]
        weights = [(1 - lam) * lam ** (n - 1) for n in steps]
        weights[-1] = lam ** (length - t - 1)  # what remains goes to the full return
        result.append(sum(w * a for w, a in zip(weights, n_step)))
    return result


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 999),
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.sampled_from([0.9, 0.99, 1.0]),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_gae_equals_the_brute_force_lambda_return(seed, lengths, gamma, lam):
    torch.manual_seed(seed)
    mask = lengths_mask(torch.tensor(lengths), 7)
    rewards, values = torch.randn(2, len(lengths), 7, dtype=torch.float64)
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    for row, n in enumerate(lengths):
        expected = brute_force_gae(rewards[row].tolist(), values[row].tolist(), n, gamma, lam)
        assert advantages[row, :n].tolist() == pytest.approx(expected)
        assert (advantages[row, n:] == 0).all()


def test_gae_ignores_padded_values_and_rewards():
    (rewards, values, *_), mask = batch()
    clean = gae(rewards, values, mask)
    for junk in (1e6, math.nan):
        dirty = gae(rewards.masked_fill(mask == 0, junk), values.masked_fill(mask == 0, junk), mask)
        assert all(torch.equal(a, b) for a, b in zip(clean, dirty))


def test_lambda_one_is_the_return_less_the_value_and_lambda_zero_the_td_error():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 0.4, 0.3]])
    mask = torch.ones(1, 3)
    torch.testing.assert_close(
        gae(rewards, values, mask, 1.0, 1.0)[0], torch.tensor([[6.0, 5.0, 3.0]]) - values
    )
    torch.testing.assert_close(
        gae(rewards, values, mask, 1.0, 0.0)[0], torch.tensor([[0.9, 1.9, 2.7]])
    )


def test_returns_are_formed_before_whitening():
    (rewards, values, *_), mask = batch(1)
    advantages, returns = gae(rewards, values, mask)
    valid = mask.bool()
    torch.testing.assert_close((returns - values)[valid], advantages[valid])
    white = whiten(advantages, mask)
    assert (white - advantages)[valid].abs().max() > 0.1  # raw means raw


def test_no_gradient_through_old_log_probs_advantages_or_returns():
    tensors, mask = batch(2)
    rewards, values = (t.clone().requires_grad_() for t in tensors[:2])
    assert not any(t.requires_grad for t in gae(rewards, values, mask))
    logp, old_logp, A, V, old_V, R = (t.clone().requires_grad_() for t in tensors)
    (policy_loss(logp, old_logp, A, mask)[0] + value_loss(V, old_V, R, mask)[0]).backward()
    assert all(t.grad is None for t in (old_logp, A, old_V, R))
    assert logp.grad.abs().max() > 0
    assert V.grad.abs().max() > 0


def test_group_advantages_by_hand():
    scores = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    expected = torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(group_advantages(scores), expected, atol=1e-5, rtol=0)
    assert torch.equal(group_advantages(2 * scores, scale=False), 2 * expected)
    assert group_advantages(torch.ones(2, 1)).eq(0).all()


# --- the clipped losses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "clipped"),
    [
        (+1.0, 1.5, -1.2, True),  # better than thought and already likelier: enough
        (+1.0, 0.5, -0.5, False),  # better, yet less likely: the full gradient back
        (-1.0, 1.5, +1.5, False),  # worse, yet likelier: the full gradient back
        (-1.0, 0.5, +0.8, True),  # worse and already less likely: enough
        (+1.0, 1.1, -1.1, False),  # inside the clip nothing happens
    ],
)
def test_policy_clip_in_the_four_quadrants(advantage, ratio, loss, clipped):
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    value, stats = policy_loss(
        logp, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1)
    )
    value.backward()
    assert value.item() == pytest.approx(loss)
    assert stats["clip_fraction"].item() == float(clipped)
    assert logp.grad.item() == pytest.approx(0.0 if clipped else -advantage * ratio)


def test_ratio_is_one_on_the_first_minibatch():
    """With logp = old_logp the loss is -mean A and its gradient that of REINFORCE."""
    (logp, _, A, *_), mask = batch(3)
    logp = logp.requires_grad_()
    loss, stats = policy_loss(logp, logp.detach().clone(), A, mask)
    (gradient,) = torch.autograd.grad(loss, logp)
    (reinforce,) = torch.autograd.grad(reinforce_loss(logp, A, mask), logp)
    torch.testing.assert_close(loss, -masked_mean(A, mask))
    torch.testing.assert_close(gradient, reinforce)
    assert stats["max_log_ratio"] == 0
    assert stats["approx_kl"] == 0
    assert stats["ratio"] == 1


def test_approx_kl_is_that_from_the_old_to_the_new_policy():
    """Enumerated on three tokens: tokens drawn from the old policy estimate KL(old || new)."""
    old, new = LOGITS.log_softmax(-1), REF_LOGITS.log_softmax(-1)
    zeros, ones = torch.zeros(1, 1), torch.ones(1, 1)
    estimates = [
        policy_loss(n.view(1, 1), o.view(1, 1), zeros, ones)[1]["approx_kl"]
        for n, o in zip(new, old)
    ]
    torch.testing.assert_close(
        (old.exp() * torch.stack(estimates)).sum(), exact_kl(LOGITS, REF_LOGITS)
    )


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0),  # at the old value: 1/2 (1 - 3)^2
        (2.0, 1.0, 3.0, 0.5 * 1.8**2, 0.0),  # moved past the clip towards R: held back at 1.2
        (2.0, 1.0, 0.0, 2.0, 2.0),  # moved away from R: the larger plain error
        (1.1, 1.0, 3.0, 0.5 * 1.9**2, -1.9),  # inside the clip
    ],
)
def test_value_clip_is_around_the_old_value_with_one_half(value, old, target, loss, gradient):
    V = torch.tensor([[value]], requires_grad=True)
    result, stats = value_loss(V, torch.tensor([[old]]), torch.tensor([[target]]), torch.ones(1, 1))
    result.backward()
    assert result.item() == pytest.approx(loss)
    assert V.grad.item() == pytest.approx(gradient)
    assert stats["clip_fraction"].item() == float(gradient == 0.0)


def test_value_loss_without_a_clip_is_the_squared_error():
    (_, _, _, V, old_V, R), mask = batch(4)
    loss, stats = value_loss(V, old_V, R, mask, clip=None)
    torch.testing.assert_close(loss, masked_mean((V - R) ** 2, mask) / 2)
    assert stats["clip_fraction"] == 0


# --- aggregation, masks, accumulation --------------------------------------------------------


def test_aggregation_of_unequal_lengths_by_hand():
    x = torch.tensor([[1.0, 1.0, 1.0, 1.0], [5.0, 99.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert aggregate(x, mask, "token").item() == pytest.approx(9 / 5)
    assert aggregate(x, mask, "sequence").item() == pytest.approx((1 + 5) / 2)
    assert aggregate(x, mask, "constant").item() == pytest.approx(9 / 8)
    with pytest.raises(ValueError, match="'mean'; use token, sequence or constant"):
        aggregate(x, mask, "mean")


DENOMINATORS = {"token": LENGTHS.sum(), "sequence": 4, "constant": 24}


@pytest.mark.parametrize("aggregation", list(DENOMINATORS))
def test_accumulation_of_four_by_one_equals_one_by_four(aggregation):
    (logp, old, A, V, old_V, R), mask = batch(5)
    options = {"aggregation": aggregation, "denominator": DENOMINATORS[aggregation]}
    logp, V = logp.requires_grad_(), V.requires_grad_()

    def gradients(parts):
        total = sum(
            policy_loss(logp[i], old[i], A[i], mask[i], **options)[0]
            + value_loss(V[i], old_V[i], R[i], mask[i], **options)[0]
            for i in parts
        )
        return total, *torch.autograd.grad(total, (logp, V))

    whole = gradients([slice(0, 4)])
    split = gradients([slice(i, i + 1) for i in range(4)])
    torch.testing.assert_close(split, whole)
    torch.testing.assert_close(
        whole[0],
        policy_loss(logp, old, A, mask, aggregation=aggregation)[0]
        + value_loss(V, old_V, R, mask, aggregation=aggregation)[0],
    )


def test_a_mean_of_micro_batch_means_can_have_the_other_sign():
    """Why the denominator exists: one long answer, one short, normalised each by itself."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    A = torch.tensor([[0.5, 0.5, 0.5, 0.5], [-1.0, 0.0, 0.0, 0.0]])
    zeros = torch.zeros(2, 4)
    halves = [policy_loss(zeros[:1], zeros[:1], A[i : i + 1], mask[i : i + 1])[0] for i in (0, 1)]
    assert policy_loss(zeros, zeros, A, mask)[0] < 0 < sum(halves) / 2


def test_stats_weighted_by_tokens_are_those_of_the_whole_batch():
    (logp, old, A, *_), mask = batch(6)
    whole = policy_loss(logp, old, A, mask)[1]
    parts = [
        policy_loss(logp[i : i + 1], old[i : i + 1], A[i : i + 1], mask[i : i + 1])[1]
        for i in range(4)
    ]
    for name in ("clip_fraction", "approx_kl", "ratio"):
        weighted = sum(p[name] * p["tokens"] for p in parts) / sum(p["tokens"] for p in parts)
        torch.testing.assert_close(weighted, whole[name])


@pytest.mark.parametrize("junk", [1e6, -3.0, math.nan, math.inf])
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_mutating_pads_changes_neither_losses_nor_metrics_nor_gradients(aggregation, junk):
    tensors, mask = batch(7)

    def everything(tensors):
        logp, old, A, V, old_V, R = (t.clone().requires_grad_() for t in tensors)
        p_loss, p_stats = policy_loss(logp, old, A, mask, aggregation=aggregation)
        v_loss, v_stats = value_loss(V, old_V, R, mask, aggregation=aggregation)
        figures = [*p_stats.values(), *v_stats.values(), explained_variance(V, R, mask)]
        r_loss = reinforce_loss(logp, A, mask, aggregation)
        gradients = torch.autograd.grad(p_loss + v_loss + r_loss, (logp, V))
        return [p_loss, v_loss, r_loss, *figures, *gradients]

    dirty = [t.masked_fill(mask == 0, junk) for t in tensors]
    for clean, other in zip(everything(tensors), everything(dirty)):
        assert torch.equal(clean, other)


# --- controllers and averages ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kl", "samples", "expected"),
    [
        (6.0, 100, 0.1),  # on target: unchanged
        (6.6, 100, 0.1 * (1 + 0.1 * 0.01)),  # 10 % above
        (60.0, 100, 0.1 * (1 + 0.2 * 0.01)),  # far above: the error is clipped at 20 %
        (0.0, 100, 0.1 * (1 - 0.2 * 0.01)),
        (60.0, 10_000, 0.12),  # a whole horizon at once
    ],
)
def test_adaptive_beta_table_of_steps_in_nats_per_sequence(kl, samples, expected):
    assert adaptive_beta(0.1, kl, target=6.0, samples=samples, horizon=10_000) == pytest.approx(
        expected
    )


def test_explained_variance_of_a_perfect_a_constant_and_a_wrong_critic():
    returns = torch.tensor([[1.0, 2.0, 3.0, 99.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    assert explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros(1, 4), returns, mask).item() == pytest.approx(0.0)
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(1, 4), mask).item() == 0.0


# --- advantages without a critic, on a language of three answers -----------------------------

SCORES = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)  # of the three answers


def true_gradient():
    """Of the expected score, by autograd over all answers."""
    logits = LOGITS.clone().requires_grad_()
    (logits.softmax(-1) * SCORES).sum().backward()
    return logits.grad


def expected_estimate(advantages_of, k=2):
    """The mean of ``1/k sum_i A_i grad log p_i`` over all draws of k answers to the prompt."""
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)
    p, total = logp.exp().detach(), torch.zeros((), dtype=torch.float64)
    for draw in torch.cartesian_prod(*[torch.arange(3)] * k):
        A = advantages_of(SCORES[draw][None])[0]
        total = total + p[draw].prod() * (A * logp[draw]).sum() / k
    total.backward()
    return logits.grad


def test_rloo_compares_with_the_mean_of_the_others():
    scores = torch.randn(3, 4, dtype=torch.float64)
    found = rloo_advantages(scores)
    for i in range(3):
        for j in range(4):
            others = [scores[i, other].item() for other in range(4) if other != j]
            assert found[i, j].item() == pytest.approx(scores[i, j].item() - sum(others) / 3)
    torch.testing.assert_close(found, 4 / 3 * group_advantages(scores, scale=False))
    with pytest.raises(ValueError, match="1 answer a prompt leaves no others"):
        rloo_advantages(scores[:, :1])


@pytest.mark.parametrize("k", [2, 3])
def test_rloo_is_unbiased_over_all_draws_and_a_scaled_group_is_not(k):
    torch.testing.assert_close(expected_estimate(rloo_advantages, k), true_gradient())
    plain = expected_estimate(lambda s: group_advantages(s, scale=False), k)
    torch.testing.assert_close(plain, (k - 1) / k * true_gradient())  # too short, the same way
    scaled, true = expected_estimate(group_advantages, k), true_gradient()
    assert torch.cosine_similarity(scaled, true, dim=0) < 0.999


def test_rewards_to_go_are_sums_of_what_follows():
    tensors, mask = batch()
    rewards = tensors[0]
    for gamma in (1.0, 0.9):
        found = rewards_to_go(rewards, mask, gamma)
        for b, length in enumerate(LENGTHS):
            for t in range(6):
                later = range(t, length)
                wanted = sum(gamma ** (k - t) * rewards[b, k].item() for k in later)
                assert found[b, t].item() == pytest.approx(wanted)
