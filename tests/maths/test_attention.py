"""The attention equations against loops, PyTorch and transformers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlib.maths.attention import (
    additive_mask,
    attention,
    attention_flops,
    attention_scores,
    causal_mask,
    masked_softmax,
    merge_heads,
    multi_head_attention,
    padding_mask,
    rotary,
    sinusoidal_positions,
    split_heads,
)


def loop_attention(Q, K, V, mask=None):
    """One query at a time, one key at a time: equation 1 of Vaswani et al. word for word."""
    output, weights = [], []
    for t, q in enumerate(Q):
        terms = []
        for s, k in enumerate(K):
            seen = mask is None or bool(mask[t, s])
            score = sum(float(a * b) for a, b in zip(q, k)) / math.sqrt(len(q))
            terms.append(math.exp(score) if seen else 0.0)
        row = [term / sum(terms) for term in terms]
        weights.append(row)
        columns = range(V.shape[1])
        output.append([sum(w * float(v[j]) for w, v in zip(row, V)) for j in columns])
    return torch.tensor(output, dtype=Q.dtype), torch.tensor(weights, dtype=Q.dtype)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_attention_equals_the_loop(T, S, d, seed):
    torch.manual_seed(seed)
    Q, K, V = (torch.randn(n, d, dtype=torch.float64) for n in (T, S, S))
    for ours, loop in zip(attention(Q, K, V), loop_attention(Q, K, V)):
        torch.testing.assert_close(ours, loop)


def test_causal_attention_equals_the_loop():
    torch.manual_seed(0)
    Q, K, V = torch.randn(3, 6, 4, dtype=torch.float64)
    mask = causal_mask(6)
    for ours, loop in zip(attention(Q, K, V, mask), loop_attention(Q, K, V, mask)):
        torch.testing.assert_close(ours, loop)


def test_weights_are_distributions():
    Q, K, V = torch.randn(3, 2, 4, 7, 8)
    weights = attention(Q, K, V, causal_mask(7))[1]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 7))
    assert (weights >= 0).all()


@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "padding"])
def test_equals_pytorchs_scaled_dot_product_attention(kind):
    torch.manual_seed(1)
    Q, K, V = torch.randn(3, 2, 4, 9, 8)
    boolean = causal_mask(9)
    padding = padding_mask(torch.tensor([[1] * 9, [1] * 5 + [0] * 4]))
    masks = {
        "none": None,
        "boolean": boolean,
        "additive": additive_mask(boolean),
        "padding": boolean & padding,
    }
    theirs = torch.nn.functional.scaled_dot_product_attention(Q, K, V, masks[kind])
    torch.testing.assert_close(attention(Q, K, V, masks[kind])[0], theirs, atol=1e-6, rtol=1e-5)


def test_masked_keys_get_weight_exactly_zero_and_change_nothing():
    torch.manual_seed(2)
    Q, K, V = torch.randn(3, 1, 1, 5, 4)
    mask = padding_mask(torch.tensor([[1, 1, 1, 0, 0]]))
    output, weights = attention(Q, K, V, mask)
    K[..., 3:, :] += 100.0
    V[..., 3:, :] -= 100.0
    assert (weights[..., 3:] == 0).all()
    torch.testing.assert_close(attention(Q, K, V, mask)[0], output, atol=0, rtol=0)


def test_boolean_and_additive_masks_agree():
    scores = torch.randn(3, 6, 6)
    mask = causal_mask(6)
    torch.testing.assert_close(
        masked_softmax(scores, mask), masked_softmax(scores, additive_mask(mask))
    )


def test_a_query_that_may_look_nowhere_gets_zeros_and_finite_gradients():
    scores = torch.randn(2, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    weights = masked_softmax(scores, mask)
    weights.square().sum().backward()
    assert (weights[1] == 0).all()
    assert scores.grad.isfinite().all()


def test_an_integer_mask_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"int64.*give a boolean mask"):
        masked_softmax(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.long))


def test_causal_mask_with_a_cache_is_the_last_rows_of_the_full_one():
    assert torch.equal(causal_mask(2, 6), causal_mask(6)[-2:])
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True] * 3]


def test_the_future_cannot_be_seen():
    torch.manual_seed(3)
    Q, K, V = torch.randn(3, 1, 2, 6, 4)
    before = attention(Q, K, V, causal_mask(6))[0]
    V[:, :, 4:] = 7.0
    K[:, :, 4:] = 7.0
    after = attention(Q, K, V, causal_mask(6))[0]
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4:], after[:, :, 4:])


@pytest.mark.parametrize("d", [4, 64, 512])
def test_scores_have_variance_one_whatever_the_width(d):
    torch.manual_seed(4)
    Q, K = torch.randn(2, 400, d)
    assert attention_scores(Q, K).var().item() == pytest.approx(1.0, abs=0.1)


def test_heads_split_and_merge_back():
    X = torch.randn(2, 5, 12)
    heads = split_heads(X, 3)
    assert heads.shape == (2, 3, 5, 4)
    assert torch.equal(heads[:, 1], X[..., 4:8])
    assert torch.equal(merge_heads(heads), X)
    with pytest.raises(ValueError, match=r"width 12 .* 5 heads"):
        split_heads(X, 5)


def test_multi_head_equals_pytorchs_module():
    torch.manual_seed(5)
    D, h, T = 12, 3, 7
    module = torch.nn.MultiheadAttention(D, h, bias=False, batch_first=True)
    W_Q, W_K, W_V = (W.T for W in module.in_proj_weight.chunk(3))
    X = torch.randn(2, T, D)
    forbidden = ~causal_mask(T)  # this module's boolean masks say where not to look
    theirs, their_weights = module(X, X, X, attn_mask=forbidden, average_attn_weights=False)
    ours, weights = multi_head_attention(
        X, W_Q, W_K, W_V, module.out_proj.weight.T, h, causal_mask(T)
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(weights, their_weights)


def test_one_head_of_many_sees_only_its_columns():
    torch.manual_seed(6)
    X, W = torch.randn(1, 4, 6), torch.randn(4, 6, 6)
    weights = multi_head_attention(X, *W, heads=2)[1]
    Q, K = X @ W[0], X @ W[1]
    torch.testing.assert_close(weights[:, 1], attention_scores(Q[..., 3:], K[..., 3:]).softmax(-1))


def test_flops_are_those_that_pytorch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    T, D = 24, 16
    X, W = torch.randn(1, T, D), torch.randn(4, D, D)
    for heads in (1, 4):
        with FlopCounterMode(display=False) as counter:
            multi_head_attention(X, *W, heads)
        assert counter.get_total_flops() == sum(attention_flops(T, D))


def test_sinusoids_shift_by_a_rotation():
    PE = sinusoidal_positions(50, 16).double()
    dots = PE @ PE.T
    for offset in (0, 3, 10):
        diagonal = dots.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)
    assert PE[0].tolist() == [0.0, 1.0] * 8


def test_rotary_products_depend_on_the_distance_only():
    torch.manual_seed(7)
    q, k = torch.randn(2, 8, dtype=torch.float64)

    def product(t, s):
        return rotary(q[None], torch.tensor([t])) @ rotary(k[None], torch.tensor([s])).T

    torch.testing.assert_close(product(9, 4), product(105, 100), atol=1e-5, rtol=0)
    assert (product(9, 4) - product(9, 5)).abs() > 1e-3


def test_rotary_keeps_lengths_and_position_zero():
    X = torch.randn(2, 3, 5, 8)
    turned = rotary(X, torch.arange(5))
    torch.testing.assert_close(turned.norm(dim=-1), X.norm(dim=-1))
    assert torch.equal(turned[..., 0, :], X[..., 0, :])


def test_rotary_equals_transformers():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=32, num_attention_heads=4)
    Q, K = torch.randn(2, 2, 4, 6, 8)
    positions = torch.arange(6)[None]
    cos, sin = LlamaRotaryEmbedding(config)(Q, positions)
    for ours, theirs in zip((Q, K), apply_rotary_pos_emb(Q, K, cos, sin)):
        torch.testing.assert_close(rotary(ours, torch.arange(6)), theirs)


def test_odd_widths_have_no_positions():
    with pytest.raises(ValueError, match="width 7 is odd"):
        rotary(torch.zeros(1, 7), torch.arange(1))


def test_positions_from_the_mask_make_left_padding_harmless():
    """ppo-details: position ids from ``cumsum(mask) - 1``; k extra pads leave outputs unchanged."""
    torch.manual_seed(8)
    X = torch.randn(1, 1, 5, 8)

    def last(pads):
        padded = torch.cat([torch.randn(1, 1, pads, 8), X], dim=2)
        valid = torch.tensor([[0] * pads + [1] * 5])
        turned = rotary(padded, (valid.cumsum(-1) - 1).clamp(min=0)[:, None])
        mask = causal_mask(pads + 5) & padding_mask(valid)
        return attention(turned, turned, padded, mask)[0][:, :, -5:]

    torch.testing.assert_close(last(0), last(4))
