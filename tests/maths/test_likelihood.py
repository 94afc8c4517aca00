"""Log-probabilities, masked means and whitening against float64 and hand-made cases."""

import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chatlib.maths.likelihood import (
    cross_entropy,
    entropy,
    masked_mean,
    masked_moments,
    masked_sum,
    perplexity,
    response_log_probs,
    token_log_probs,
    whiten,
)

FLOATS = st.floats(-100, 100, width=32)


def test_token_log_probs_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0]]])
    logp = token_log_probs(logits, torch.tensor([[1, 1]]))
    torch.testing.assert_close(logp.exp(), torch.tensor([[0.75, 0.2]]))


def test_log_softmax_in_fp32_for_bf16_logits():
    """ppo-details: bf16 logits against float64; bf16 throughout is a hundred times worse."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(4, 16, 512)).bfloat16()
    labels = torch.randint(512, (4, 16))
    exact = token_log_probs(logits.double(), labels)
    ours = token_log_probs(logits, labels)
    rounded = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    assert ours.dtype == torch.float32
    assert exact.dtype == torch.float64
    error, rounded_error = (ours - exact).abs().max(), (rounded - exact).abs().max()
    assert error < 1e-5
    assert rounded_error > 100 * error


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_temperature_is_the_one_of_transformers_sampling(temperature):
    from transformers import TemperatureLogitsWarper

    torch.manual_seed(1)
    logits, labels = torch.randn(2, 5, 11), torch.randint(11, (2, 5))
    sampled_from = TemperatureLogitsWarper(temperature)(None, logits.flatten(0, 1)).softmax(-1)
    chosen = sampled_from.gather(-1, labels.view(-1, 1)).view(2, 5)
    torch.testing.assert_close(token_log_probs(logits, labels, temperature).exp(), chosen)


def test_logits_before_the_answer_predict_it():
    """ppo-details: logits [P-1:-1]; a model that puts its mass on `id + 1` continues a count."""
    ids = torch.tensor([[0, 1, 2, 3, 4, 5]])
    successor = torch.nn.functional.one_hot(ids + 1, 8) * 50.0
    for P in (1, 3):
        logp = response_log_probs(successor, ids, prompt_length=P)
        assert logp.shape == (1, 6 - P)
        assert logp.abs().max() < 1e-6
    wrong = token_log_probs(successor[:, 3:], ids[:, 3:])  # off by one
    assert wrong.max() < -40


def test_cross_entropy_equals_pytorch_on_the_valid_tokens():
    torch.manual_seed(2)
    logits, labels = torch.randn(3, 6, 9), torch.randint(9, (3, 6))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [0] * 3 + [1] * 3])
    ignored = labels.masked_fill(mask == 0, -100)
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ignored.flatten())
    torch.testing.assert_close(cross_entropy(logits, labels, mask), theirs)


def test_micro_batches_add_up_under_a_global_denominator():
    torch.manual_seed(3)
    logits, labels = torch.randn(4, 5, 7), torch.randint(7, (4, 5))
    mask = (torch.arange(5) < torch.tensor([[5], [1], [3], [2]])).long()
    parts = [
        cross_entropy(*part, mask.sum())
        for part in zip(*(t.split(1) for t in (logits, labels, mask)))
    ]
    torch.testing.assert_close(sum(parts), cross_entropy(logits, labels, mask))


def test_entropy_of_a_fair_die_and_of_certainty():
    fair = entropy(torch.zeros(1, 1, 6))
    certain = entropy(torch.tensor([[[0.0, -torch.inf, -torch.inf]]]))
    assert fair.item() == pytest.approx(math.log(6))
    assert certain.item() == 0.0


def test_entropy_is_the_expected_surprise_at_any_temperature():
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    theirs = torch.distributions.Categorical(logits=logits / 0.7).entropy()
    torch.testing.assert_close(entropy(logits, 0.7), theirs)


def test_perplexity_of_a_fair_die_is_its_size():
    logits, labels = torch.zeros(2, 4, 6), torch.ones(2, 4, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert perplexity(token_log_probs(logits, labels), mask).item() == pytest.approx(6.0)


def test_masked_mean_ignores_nan_under_the_mask_in_value_and_gradient():
    x = torch.tensor([[1.0, 3.0, math.nan]], requires_grad=True)
    mean = masked_mean(x, torch.tensor([[1, 1, 0]]))
    mean.backward()
    assert mean.item() == 2.0
    assert x.grad.tolist() == [[0.5, 0.5, 0.0]]


def test_masked_mean_along_an_axis_and_of_nothing():
    x, mask = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[1, 1], [0, 0]])
    assert masked_mean(x, mask, dim=1).tolist() == [2.0, 0.0]
    assert masked_sum(x, mask, dim=0).tolist() == [1.0, 3.0]
    assert masked_mean(x, torch.zeros_like(mask)).item() == 0.0


@settings(deadline=None)
@given(hnp.arrays("float32", (3, 5), elements=FLOATS), hnp.arrays("bool", (3, 5)))
def test_moments_are_those_of_the_valid_values(x, mask):
    x, mask = torch.from_numpy(x).double(), torch.from_numpy(mask)
    n, mean, variance = masked_moments(x, mask)
    valid = x[mask]
    assert n == valid.numel()
    if n > 1:
        torch.testing.assert_close((mean, variance), (valid.mean(), valid.var()))


@settings(deadline=None)
@given(hnp.arrays("float32", (3, 5), elements=FLOATS), hnp.arrays("bool", (3, 5)))
def test_whitening_is_finite_and_indifferent_to_padding(x, mask):
    x, mask = torch.from_numpy(x), torch.from_numpy(mask)
    white = whiten(x, mask)
    assert white.isfinite().all()
    assert (white[~mask] == 0).all()
    assert torch.equal(whiten(x.masked_fill(~mask, math.nan), mask), white)


def test_whitening_of_advantages_shifts_the_mean_and_of_rewards_keeps_it():
    torch.manual_seed(4)
    x = 5 + 3 * torch.randn(8, 6, dtype=torch.float64)
    mask = torch.arange(6) < torch.arange(1, 9)[:, None].clamp(max=6)
    valid = x[mask]
    shifted, kept = whiten(x, mask)[mask], whiten(x, mask, shift_mean=False)[mask]
    for white in (shifted, kept):
        assert white.var().item() == pytest.approx(1.0)
    assert shifted.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert kept.mean().item() == pytest.approx(valid.mean().item())


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_of_one_element_or_zero_variance_is_finite(shift_mean):
    mask = torch.tensor([[1, 1, 0]])
    same = whiten(torch.full((1, 3), 2.0), mask, shift_mean)
    one = whiten(torch.full((1, 3), 2.0), torch.tensor([[1, 0, 0]]), shift_mean)
    mean = 0.0 if shift_mean else 2.0
    assert same.tolist() == [[mean, mean, 0.0]]
    assert one.tolist() == [[mean, 0.0, 0.0]]
    assert whiten(torch.ones(1, 3), torch.zeros(1, 3)).tolist() == [[0.0] * 3]


class Ranks:
    """Two ranks as two threads that wait for one another, as an all-reduce does."""

    def __init__(self, world):
        self.barrier, self.parts = threading.Barrier(world, timeout=10), [None] * world

    def reduce(self, rank):
        def total(tensor):
            self.parts[rank] = tensor
            self.barrier.wait()
            result = sum(self.parts)
            self.barrier.wait()
            return result

        return total

    def run(self, function, shards):
        results = [None] * len(shards)

        def work(rank):
            results[rank] = function(*shards[rank], reduce=self.reduce(rank))

        threads = [threading.Thread(target=work, args=(r,)) for r in range(len(shards))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_over_two_ranks_equals_one(shift_mean):
    torch.manual_seed(5)
    x = torch.randn(6, 4, dtype=torch.float64)
    mask = torch.arange(4) < torch.tensor([[4], [1], [0], [3], [2], [4]])
    shards = list(zip(x.split([2, 4]), mask.split([2, 4])))

    def white(part, part_mask, reduce):
        return whiten(part, part_mask, shift_mean, reduce)

    together = whiten(x, mask, shift_mean)
    torch.testing.assert_close(torch.cat(Ranks(2).run(white, shards)), together)
    alone = torch.cat([whiten(*shard, shift_mean) for shard in shards])
    assert not torch.allclose(alone, together, atol=1e-2)  # the mistake this guards against
