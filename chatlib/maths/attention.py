"""Attention, its masks, heads and positions (ch. 1).

Shapes: B batch, h heads, T queries, S keys, d width of one head, D = h d width of the model.
A mask is boolean, True where a query may look, or a float tensor that is added to the scores.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention_scores(Q: Tensor, K: Tensor) -> Tensor:
    """How well each query matches each key: ``Q K^T / sqrt(d)``.

    Q is (..., T, d), K is (..., S, d); the result is (..., T, S). With independent entries of
    mean 0 and variance 1 the sum of d products has variance d; the division makes it 1.
    Source: Vaswani et al. 2017, section 3.2.1.
    """
    d = Q.shape[-1]
    return Q @ K.transpose(-2, -1) / math.sqrt(d)


def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the last axis, with weight exactly 0 where the mask forbids to look.

    scores is (..., T, S); mask broadcasts to it. A query that may look nowhere gets weights 0
    rather than NaN, so a padded row can never spread through a batch.
    Raises TypeError for an integer mask, whose 0 and 1 could mean either kind.
    """
    if mask is None:
        return scores.softmax(-1)
    if mask.dtype != torch.bool:
        if not mask.is_floating_point():
            raise TypeError(
                f"mask has dtype {mask.dtype}; give a boolean mask (True where a query may look) "
                "or a float mask that is added to the scores"
            )
        scores, mask = scores + mask, mask > -math.inf
    smallest = torch.finfo(scores.dtype).min  # not -inf: a row of -inf has NaN gradients
    return scores.masked_fill(~mask, smallest).softmax(-1).masked_fill(~mask, 0.0)


def attention(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention: ``softmax(Q K^T / sqrt(d) + M) V``.

    Q is (..., T, d), K is (..., S, d), V is (..., S, d_v), mask broadcasts to (..., T, S).
    Returns the output (..., T, d_v) and the weights (..., T, S), whose rows sum to 1, or to 0 for
    a query that may look nowhere.
    Source: Vaswani et al. 2017, equation 1.
    """
    weights = masked_softmax(attention_scores(Q, K), mask)
    return weights @ V, weights


def causal_mask(T: int, S: int | None = None, device: torch.device | None = None) -> Tensor:
    """Each query sees itself and what came before it: True where ``s <= t + (S - T)``.

    Returns a boolean (T, S). The queries are the last T of S positions (S = T when not given),
    as in decoding with a cache. Source: Vaswani et al. 2017, section 3.2.3.
    """
    S = T if S is None else S
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def padding_mask(valid: Tensor) -> Tensor:
    """No query looks at padding: (B, S) with 1 on valid tokens becomes a boolean (B, 1, 1, S)."""
    return valid.bool()[:, None, None, :]


def additive_mask(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same mask as a term M of the scores: 0 where a query may look, -inf elsewhere."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(~mask, -math.inf)


def split_heads(X: Tensor, heads: int) -> Tensor:
    """Cut the width into heads: (B, T, D) becomes (B, h, T, d) with d = D / h.

    Raises ValueError when D cannot be divided. Source: Vaswani et al. 2017, section 3.2.2.
    """
    B, T, D = X.shape
    if D % heads:
        raise ValueError(f"width {D} cannot be divided among {heads} heads; take a divisor of {D}")
    return X.view(B, T, heads, D // heads).transpose(1, 2)


def merge_heads(X: Tensor) -> Tensor:
    """Undo `split_heads`: (B, h, T, d) becomes (B, T, h d), the heads side by side."""
    B, h, T, d = X.shape
    return X.transpose(1, 2).reshape(B, T, h * d)


def multi_head_attention(
    X: Tensor,
    W_Q: Tensor,
    W_K: Tensor,
    W_V: Tensor,
    W_O: Tensor,
    heads: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Self-attention in h subspaces: ``concat(head_1, ..., head_h) W_O`` with
    ``head_i = attention(X W_Q^i, X W_K^i, X W_V^i)``.

    X is (B, T, D), each W is (D, D) and multiplies from the right, mask broadcasts to
    (B, h, T, T). Returns the output (B, T, D) and the weights (B, h, T, T).
    Source: Vaswani et al. 2017, section 3.2.2.
    """
    Q, K, V = (split_heads(X @ W, heads) for W in (W_Q, W_K, W_V))
    output, weights = attention(Q, K, V, mask)
    return merge_heads(output) @ W_O, weights


def attention_flops(T: int, D: int) -> tuple[int, int]:
    """Floating-point operations of one layer on T tokens of width D: ``8 T D^2`` and ``4 T^2 D``.

    The first is the four projections, the second the two products over all pairs of tokens; a
    multiplication and an addition count as two. The number of heads plays no part. Softmax and
    positions are left out. Source: Kaplan et al. 2020, table 1.
    """
    return 8 * T * D**2, 4 * T**2 * D


def frequencies(d: int, base: float = 10_000.0, device: torch.device | None = None) -> Tensor:
    """Angles a position advances by, in radians per token: ``base^(-2 i / d)``, shape (d / 2,).

    Raises ValueError for an odd d. Source: Vaswani et al. 2017, section 3.5.
    """
    if d % 2:
        raise ValueError(f"width {d} is odd; positions turn pairs of numbers, take an even width")
    return base ** (-torch.arange(0, d, 2, device=device, dtype=torch.float32) / d)


def sinusoidal_positions(T: int, d: int, base: float = 10_000.0) -> Tensor:
    """Positions to add to embeddings: ``PE[t, 2i] = sin(t w_i)``, ``PE[t, 2i + 1] = cos(t w_i)``.

    Returns (T, d), with w_i from `frequencies`. Source: Vaswani et al. 2017, section 3.5.
    """
    angles = torch.outer(torch.arange(T, dtype=torch.float32), frequencies(d, base))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def rotary(X: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Turn the pair ``(x_i, x_{i + d/2})`` by the angle ``t w_i`` (rotary positions).

    X is (..., T, d), positions is (T,) or broadcasts to X's axes before the last. Afterwards
    ``q_t . k_s`` depends on the positions only through ``t - s``. The pairing is that of the
    Llama checkpoints in transformers. Source: Su et al. 2021 (RoFormer), equation 34.
    """
    angles = positions[..., None].float() * frequencies(X.shape[-1], base, X.device)
    cos, sin = angles.cos().to(X.dtype), angles.sin().to(X.dtype)
    first, second = X.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
