"""Likelihood of tokens, and means over the valid ones (ch. 3).

Shapes: B batch, T time, V vocabulary. A mask is 1 on valid tokens and 0 on padding; values
under a 0 never reach a result, not even when they are NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]  # sums a tensor over the ranks and returns the sum


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``log softmax(z / temperature)`` over the last axis, never below 32 bits.

    In bf16 a log-probability near -10 is rounded to steps of 1/16, and the probability ratio
    of PPO with it. float64 input stays float64.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (exact if temperature == 1.0 else exact / temperature).log_softmax(-1)


def token_log_probs(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each label in nats: ``log p(y_t) = log softmax(z_t / temperature)[y_t]``.

    logits is (B, T, V), labels is (B, T); returns (B, T) in fp32 (float64 for float64).
    ``logits[:, t]`` must be the prediction of ``labels[:, t]``: see `response_log_probs`.
    Labels under a mask must still be indices of the vocabulary (pad, not -100).
    """
    return log_softmax(logits, temperature).gather(-1, labels[..., None]).squeeze(-1)


def shift(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(inputs, labels, marked): what is read, and the next token at every place that was read.

    ids and mask are (B, T), all three results (B, T - 1). What a model says at place t is a
    prediction of token t + 1: ``inputs = ids[:, :-1]``, ``labels = ids[:, 1:]``, and a label is
    to be predicted where ``marked = mask[:, 1:]`` is 1. No place predicts the first token.
    """
    return ids[:, :-1], ids[:, 1:], mask[:, 1:]


def response_log_probs(
    logits: Tensor, ids: Tensor, prompt_length: int, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities of the tokens after a prompt of P tokens: logits [P-1:-1] predict them.

    logits is (B, P + R, V), ids is (B, P + R); returns (B, R), for `ids[:, P:]`. The logits at
    a position speak of the *next* token, so the first answer token is predicted at P - 1.
    """
    answer = (torch.arange(ids.shape[1], device=ids.device) >= prompt_length).expand_as(ids)
    _, labels, marked = shift(ids, answer)
    chosen = token_log_probs(logits[:, :-1][marked], labels[marked], temperature)
    return chosen.view(len(ids), -1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of the next token in nats: ``H_t = - sum_v p_v log p_v``. (B, T, V) to (B, T)."""
    logp = log_softmax(logits, temperature)
    terms = logp.exp() * logp
    return -terms.masked_fill(logp == -torch.inf, 0.0).sum(-1)  # 0 log 0 = 0


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """x where the mask is 1, and 0 elsewhere, with a gradient of 0 there (NaN times 0 is NaN)."""
    return torch.where(mask.bool(), x, torch.zeros_like(x))


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """``sum_t m_t x_t`` over all axes, or over `dim`."""
    return zero_padding(x, mask).sum(dim)


def masked_mean(
    x: Tensor, mask: Tensor, dim: int | None = None, denominator: Tensor | float | None = None
) -> Tensor:
    """``sum_t m_t x_t / sum_t m_t`` over all axes, or over `dim`; 0 where nothing is valid.

    `denominator` replaces the count: with the number of valid tokens of the whole batch, the
    sum over micro-batches and ranks of this function is the mean over all of them.
    """
    count = mask.sum(dim).clamp(min=1) if denominator is None else denominator
    return masked_sum(x, mask, dim) / count


def negative_log_likelihood(
    logp: Tensor, mask: Tensor | None = None, denominator: Tensor | float | None = None
) -> Tensor:
    """``L = - sum_t m_t log p_t / N`` in nats per token; N is the count of valid tokens.

    logp is of any shape, mask of the same (None: all are valid); `denominator` as in
    `masked_mean`. Returns a scalar.
    """
    valid = torch.ones_like(logp) if mask is None else mask
    return -masked_mean(logp, valid, denominator=denominator)


def cross_entropy(
    logits: Tensor, labels: Tensor, mask: Tensor, denominator: Tensor | float | None = None
) -> Tensor:
    """``L = - sum_t m_t log p(y_t) / N`` in nats per token; N is the count of valid tokens.

    Training takes the same two steps: `token_log_probs` where a label is marked, and then
    `negative_log_likelihood`. Shapes as in `token_log_probs`; `denominator` as in `masked_mean`.
    Returns a scalar.
    """
    return negative_log_likelihood(token_log_probs(logits, labels), mask, denominator)


def perplexity(logp: Tensor, mask: Tensor) -> Tensor:
    """``exp(- mean log p)`` over valid tokens: the size of a die as hard to guess.

    logp and mask are (B, T); returns a scalar. Source: Jelinek et al. 1977.
    """
    return (-masked_mean(logp, mask)).exp()


def masked_moments(
    x: Tensor, mask: Tensor, reduce: Reduce | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Count n, mean and Bessel-corrected variance ``sum (x - mean)^2 / (n - 1)`` of valid values.

    `reduce` sums a tensor over the ranks; with it all three are global. One element has
    variance 0. Two passes, since ``E[x^2] - E[x]^2`` cancels in fp32.
    """
    total = reduce if reduce is not None else (lambda t: t)
    n, sum_x = total(torch.stack([mask.sum().to(x.dtype), masked_sum(x, mask)]))
    mean = sum_x / n.clamp(min=1)
    variance = total(masked_sum((x - mean) ** 2, mask)) / (n - 1).clamp(min=1)
    return n, mean, variance


def whiten(
    x: Tensor,
    mask: Tensor,
    shift_mean: bool = True,
    reduce: Reduce | None = None,
    epsilon: float = 1e-8,
) -> Tensor:
    """Unit variance over valid tokens: ``(x - mean) / sqrt(var + epsilon)``, + mean if not shifted.

    x and mask are (B, T); padding comes out as 0. Advantages are shifted to mean 0; rewards
    keep their mean, or a reward that is always positive would punish half the answers.
    `reduce` sums a tensor over the ranks, so that the result does not depend on how many there
    are. One element or zero variance stays finite. Source: Ziegler et al. 2019 (their code).
    """
    _, mean, variance = masked_moments(x, mask, reduce)
    white = (x - mean) * torch.rsqrt(variance + epsilon) + (0.0 if shift_mean else mean)
    return zero_padding(white, mask)
