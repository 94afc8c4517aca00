"""Rounding to integers: bounds, brute force and what is packed comes back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.compress import quantise as q

matrices = st.tuples(
    st.integers(0, 2**20), st.sampled_from([1, 3]), st.sampled_from([4, 8]), st.integers(2, 8)
)


def drawn(seed, rows=3, columns=8, spread=1.0):
    return spread * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(matrices, st.sampled_from([None, 2, 4]))
def test_no_weight_moves_by_more_than_half_a_step(which, group):
    seed, rows, columns, bits = which
    W = drawn(seed, rows, columns)
    integers, s = q.quantise(W, bits, group)
    assert integers.dtype is torch.int8 and integers.abs().max() <= 2 ** (bits - 1) - 1
    moved = (q.dequantise(integers, s) - W).abs().reshape(*s.shape, -1)
    assert (moved <= s[..., None] / 2 + 1e-6).all()


def test_the_nearest_multiple_is_taken():
    """Against the definition: of all integers the one whose multiple is nearest."""
    W, bits = drawn(1), 4
    integers, s = q.quantise(W, bits, 4)
    every = torch.arange(-7, 8)
    for i, row in enumerate(W):
        for j, w in enumerate(row):
            assert integers[i, j] == every[(every * s[i, j // 4] - w).abs().argmin()]


def test_the_largest_of_a_group_is_kept_whole_and_zeros_stay():
    W = torch.tensor([[0.0, -3.0, 1.0, 0.2], [0, 0, 0, 0]])
    integers, s = q.quantise(W, 8)
    assert integers[0, 1] == -127 and not integers[1].any()
    torch.testing.assert_close(q.dequantise(integers, s)[0, 1], W[0, 1])


def test_smaller_groups_round_finer():
    W = drawn(2, 16, 64)
    errors = [
        (q.dequantise(*q.quantise(W, 4, group)) - W).square().mean() for group in (None, 32, 8)
    ]
    assert errors[0] > errors[1] > errors[2]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**20))
def test_two_in_a_byte_come_back(seed):
    draw = torch.Generator().manual_seed(seed)
    integers = torch.randint(-8, 8, (3, 10), generator=draw, dtype=torch.int8)
    packed = q.pack(integers)
    assert packed.dtype is torch.uint8 and packed.shape == (3, 5)
    assert torch.equal(q.unpack(packed), integers)


@pytest.mark.parametrize(("bits", "group"), [(1, None), (9, None), (4, 3)])
def test_what_cannot_be_rounded_is_one_sentence(bits, group):
    with pytest.raises(ValueError, match=r"bits; give 2 to 8|groups of 3 do not fill"):
        q.quantise(drawn(0), bits, group)


def test_a_large_input_channel_gets_finer_steps():
    """One channel carries nearly all of the output: its weights are worth more than the others'."""
    W, X = drawn(3, 32, 64), drawn(4, 200, 64)
    X[:, 5] *= 30
    c, a = q.channel_scales(W, X, 4, 32)
    plain = q.output_error(W, q.dequantise(*q.quantise(W, 4, 32)), X)
    aware = q.output_error(W, q.scaled(W, c, 4, 32), X)
    assert a > 0 and c.argmax() == 5 and aware < plain / 2


def test_scales_never_lose_to_none():
    for seed in range(5):
        W, X = drawn(seed, 8, 16), drawn(seed + 50, 40, 16)
        c, _ = q.channel_scales(W, X, 3)
        plain = q.output_error(W, q.dequantise(*q.quantise(W, 3)), X)
        assert q.output_error(W, q.scaled(W, c, 3), X) <= plain * (1 + 1e-5)


def test_the_error_of_outputs_is_the_layers():
    W, V, X = drawn(1), drawn(2), drawn(3, 5)
    by_hand = torch.stack([(W @ x - V @ x).square() for x in X]).mean()
    torch.testing.assert_close(q.output_error(W, V, X), by_hand)
