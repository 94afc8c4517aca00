"""Weights as small integers: one matrix at a time, rows cut into groups that share a step.

A matrix W is (out, in) as in ``y = W x``. Its rows are cut into groups of ``group`` weights (a row
is one group where that is None), and each group is rounded to multiples of its own step.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12  # a group of zeros has this step


def steps(W: Tensor, bits: int, group: int | None = None) -> Tensor:
    """The step of each group: ``max|w| / (2^(bits-1) - 1)``.

    Shapes: W (out, in); the result (out, in/group). Raises `ValueError` where ``group`` does not
    divide the row, or for fewer than 2 or more than 8 bits.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits; give 2 to 8")
    top = 2 ** (bits - 1) - 1
    return (grouped(W, group).abs().amax(-1) / top).clamp(min=TINY)


def grouped(W: Tensor, group: int | None) -> Tensor:
    """W (out, in) as (out, groups, group). Raises `ValueError` where rows cannot be cut so."""
    wide = W.shape[-1]
    if wide % (group or wide):
        raise ValueError(f"rows of {wide} weights; groups of {group} do not fill them")
    return W.reshape(W.shape[0], -1, group or wide)


def quantise(W: Tensor, bits: int, group: int | None = None) -> tuple[Tensor, Tensor]:
    """Round to nearest: ``q = round(w / s)``.

    Shapes: W (out, in); q (out, in) of int8 in -(2^(bits-1) - 1) .. 2^(bits-1) - 1; s as in
    `steps`. No weight moves by more than half a step.
    """
    s = steps(W, bits, group)
    q = (grouped(W, group) / s[..., None]).round()
    return q.to(torch.int8).reshape(W.shape), s


def dequantise(q: Tensor, s: Tensor) -> Tensor:
    """The weights that the integers stand for, ``q s``. Shapes: q (out, in), s (out, groups)."""
    parts = q.reshape(*s.shape, -1)
    return (parts * s[..., None]).reshape(q.shape)


def pack(q: Tensor) -> Tensor:
    """Two integers of 4 bits in a byte: the first in its lower half.

    Shapes: q (out, in) of int8 in -8 .. 7, ``in`` even; the result (out, in/2) of uint8.
    """
    low, high = (q + 8).to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
    return low | (high << 4)


def unpack(packed: Tensor) -> Tensor:
    """What `pack` packed. Shapes: (out, in/2) of uint8; the result (out, in) of int8."""
    halves = torch.stack([packed & 15, packed >> 4], dim=-1)
    return halves.flatten(-2).to(torch.int8) - 8


def output_error(W: Tensor, V: Tensor, X: Tensor) -> Tensor:
    """The mean square of ``X (W - V)'``: what rounding does to the outputs of a layer.

    Shapes: W, V (out, in), X (tokens, in); a scalar.
    """
    return (X @ (W - V).T).square().mean()


def scaled(W: Tensor, c: Tensor, bits: int, group: int | None = None) -> Tensor:
    """W after rounding ``W c`` and dividing by c again. Shapes: W (out, in), c (in,)."""
    return dequantise(*quantise(W * c, bits, group)) / c


def channel_scales(
    W: Tensor, X: Tensor, bits: int, group: int | None = None, grid: int = 20
) -> tuple[Tensor, float]:
    """Scales of the inputs that make the rounded layer's output nearest to the whole one's.

    An input channel that is large on typical inputs X gets finer steps: ``c_j = (mean |x_j|)^a``,
    and a in 0, 1/grid, .. 1 is the one of the least `output_error` (activation-aware, Lin et al.
    2024, section 3.2). a = 0 is round to nearest. Shapes: W (out, in), X (tokens, in), c (in,).
    Returns c and a.
    """
    size = X.abs().mean(0).clamp(min=TINY)
    tried = []
    for a in torch.linspace(0, 1, grid + 1).tolist():
        c = size**a
        c = c / (c.max() * c.min()).sqrt()  # the middle of the range is 1: nothing overflows
        tried.append((output_error(W, scaled(W, c, bits, group), X).item(), a, c))
    _, a, c = min(tried, key=lambda one: one[0])
    return c, a
