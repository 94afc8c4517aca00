"""Policy optimisation: KL estimators, shaped rewards, GAE, the clipped losses (ch. 5).

Shapes: B answers of at most T tokens. Step t is the state before token t, the action is token
t itself. ``logp``, ``values``, ``rewards`` and ``mask`` are (B, T); ``score`` is (B,). The mask
is 1 on an answer's tokens, its end token included: 1 ... 1 0 ... 0 in every row. What stands
under a 0 reaches no loss and no figure.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .likelihood import (
    Reduce,
    log_softmax,
    masked_mean,
    masked_moments,
    masked_sum,
    zero_padding,
)

Aggregation = Literal["token", "sequence", "constant"]
Stats = dict[str, Tensor]


def kl_estimate(logp: Tensor, ref_logp: Tensor, kind: Literal["k1", "k2", "k3"] = "k1") -> Tensor:
    """Estimate of ``KL(pi || ref)`` in nats from tokens drawn from pi, one value a token.

    With ``d = log pi - log ref``:  k1 = d (unbiased, may be negative),  k2 = d^2 / 2 (biased,
    >= 0),  k3 = exp(-d) - 1 + d (unbiased, >= 0). Same shape as the arguments.

    As a *loss* they behave otherwise: the gradient of k1 is zero in expectation, that of k2 is
    exactly the gradient of the KL, that of k3 the gradient of ``KL(ref || pi)``.
    Source: Schulman 2020, "Approximating KL divergence"; as losses: Tang and Munos 2025.
    """
    difference = logp - ref_logp
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference**2 / 2
    if kind == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"kind is {kind!r}; use k1, k2 or k3")


def exact_kl(logits: Tensor, ref_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``KL(pi || ref) = sum_v pi_v (log pi_v - log ref_v)`` in nats. (B, T, V) to (B, T)."""
    logp = log_softmax(logits, temperature)
    return (logp.exp() * (logp - log_softmax(ref_logits, temperature))).sum(-1)


def final_score(
    score: Tensor, ended: Tensor, missing_eos_penalty: float = 0.0, clip: float = math.inf
) -> Tensor:
    """The score an answer is paid: ``clip(score, -c, c) - penalty [no end token]``.

    score and ended (True where the answer stopped by itself) are (B,). Clipped first, so that
    the penalty is exact and the KL, which comes later, is never clipped.
    """
    return score.clamp(-clip, clip) - missing_eos_penalty * (~ended.bool()).to(score.dtype)


def shaped_rewards(score: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """``r_t = - beta kl_t + [t is the last valid token] score``, 0 on padding.

    score is (B,); kl and mask are (B, T); returns (B, T). beta is per nat of token KL. A row
    without a valid token gets no reward. Source: Ouyang et al. 2022, equation 2.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask.long()).argmax(dim=1, keepdim=True)
    rewards = (-beta * kl).scatter_add(1, last, score[:, None].to(kl.dtype))
    return zero_padding(rewards, mask)


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, raw: neither whitened nor clipped.

    ``delta_t = r_t + gamma V_{t+1} - V_t``,  ``A_t = delta_t + gamma lam A_{t+1}``, with V and A
    equal to 0 after the last valid token. Returns the advantages A and the returns ``A + V``
    the critic learns, both (B, T), without gradient and 0 on padding.
    Source: Schulman et al. 2016, equation 16.
    """
    rewards, values = zero_padding(rewards, mask), zero_padding(values, mask)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * next_values - values
    running, columns = torch.zeros_like(deltas[:, 0]), []
    for delta in reversed(deltas.unbind(1)):
        running = delta + gamma * lam * running
        columns.append(running)
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, advantages + values


def group_advantages(scores: Tensor, scale: bool = True, epsilon: float = 1e-6) -> Tensor:
    """An answer against the others to the same prompt: ``(r - mean) / (std + epsilon)``.

    scores is (prompts, answers); same shape back. ``scale=False`` leaves the division out, which
    weighs easy and hard prompts by their spread otherwise.
    Source: Shao et al. 2024 (GRPO), section 4.1.2; without scale: Liu et al. 2025 (Dr. GRPO).
    """
    centred = scores - scores.mean(dim=1, keepdim=True)
    if not scale:
        return centred
    spread = centred.square().sum(dim=1, keepdim=True) / max(scores.shape[1] - 1, 1)
    return centred / (spread.sqrt() + epsilon)


def rloo_advantages(scores: Tensor) -> Tensor:
    """An answer against the mean of the prompt's *others*: ``r_i - mean_{j != i} r_j``.

    scores is (prompts, answers), at least two answers; same shape back. The others do not depend
    on answer i, so they are a baseline (theorem 2 of chapter 5) and the gradient stays unbiased.
    It equals ``k / (k - 1)`` times `group_advantages` without scale, k answers to a prompt.
    Source: Ahmadian et al. 2024, equation 8; Kool et al. 2019.
    """
    k = scores.shape[1]
    if k < 2:
        raise ValueError(f"{k} answer a prompt leaves no others to compare with; draw 2 or more")
    return scores - (scores.sum(dim=1, keepdim=True) - scores) / (k - 1)


def rewards_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """What is paid from a token on: ``G_t = r_t + gamma G_{t+1}``, 0 on padding. (B, T)

    Less its mean over all tokens of the batch (`likelihood.whiten`) it is REINFORCE's advantage
    with a global baseline. Source: Williams 1992; whitened: Hu et al. 2025 (REINFORCE++).
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, lam=1.0)[0]


def aggregate(
    x: Tensor,
    mask: Tensor,
    aggregation: Aggregation = "token",
    denominator: Tensor | float | None = None,
) -> Tensor:
    """One number from token losses, by a stated rule.

    ``token``: sum over valid tokens / their count (a long answer weighs more);
    ``sequence``: mean of each answer's mean (a token of a long answer weighs less);
    ``constant``: sum over valid tokens / (B T) (neither; Liu et al. 2025).
    `denominator` replaces the last division by a global one, in tokens, answers or answers x T:
    the sum over micro-batches and ranks is then what one process would have computed.
    """
    count: Tensor | int
    if aggregation == "sequence":
        answers = mask.bool().any(dim=1).sum().clamp(min=1)
        total, count = masked_mean(x, mask, dim=1).sum(), answers
    elif aggregation in ("token", "constant"):
        total = masked_sum(x, mask)
        count = mask.sum().clamp(min=1) if aggregation == "token" else mask.numel()
    else:
        raise ValueError(f"aggregation is {aggregation!r}; use token, sequence or constant")
    return total / (count if denominator is None else denominator)


def reinforce_loss(
    logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    aggregation: Aggregation = "token",
    denominator: Tensor | float | None = None,
) -> Tensor:
    """``L = - mean A_t log pi(a_t)``: its gradient is minus that of J, its value is not J's.

    Source: Williams 1992; Sutton et al. 2000, theorem 1.
    """
    terms = -zero_padding(advantages.detach(), mask) * logp
    return aggregate(terms, mask, aggregation, denominator)


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    aggregation: Aggregation = "token",
    denominator: Tensor | float | None = None,
) -> tuple[Tensor, Stats]:
    """``L = mean max(-A_t rho_t, -A_t clip(rho_t, 1 - c, 1 + c))`` with ``rho = pi / pi_old``.

    Gradient flows through logp alone. Stats are means over this call's valid tokens:
    ``clip_fraction`` (where the clipped side is taken, so the gradient is 0), ``approx_kl`` (k3
    of KL(pi_old || pi), nats), ``ratio``; ``max_log_ratio`` (of its size); ``tokens``, to weigh by.
    Source: Schulman et al. 2017, equation 7.
    """
    log_ratio = zero_padding(logp - old_logp.detach(), mask)
    ratio, A = log_ratio.exp(), zero_padding(advantages.detach(), mask)
    plain, clipped = -A * ratio, -A * ratio.clamp(1 - clip, 1 + clip)
    loss = aggregate(torch.maximum(plain, clipped), mask, aggregation, denominator)
    with torch.no_grad():
        stats = {
            "clip_fraction": masked_mean((clipped > plain).float(), mask),
            "approx_kl": masked_mean(kl_estimate(-log_ratio, torch.zeros_like(logp), "k3"), mask),
            "ratio": masked_mean(ratio, mask),
            "max_log_ratio": log_ratio.abs().max(),
            "tokens": mask.sum(),
        }
    return loss, stats


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float | None = 0.2,
    aggregation: Aggregation = "token",
    denominator: Tensor | float | None = None,
) -> tuple[Tensor, Stats]:
    """``L = 1/2 mean max((V - R)^2, (V_clip - R)^2)``, V_clip within c of the *old* value.

    Gradient flows through values alone; ``clip=None`` leaves the plain squared error. Stats are
    means over this call's valid tokens: ``clip_fraction``, ``error`` (squared), and ``tokens``.
    Source: Schulman et al. 2017 (their code); Huang et al. 2022, detail 9.
    """
    given = (values, old_values.detach(), returns.detach())
    values, old_values, returns = (zero_padding(x, mask) for x in given)
    limit = math.inf if clip is None else clip
    near_old = values.clamp(old_values - limit, old_values + limit)
    plain, clipped = (values - returns) ** 2, (near_old - returns) ** 2
    loss = aggregate(torch.maximum(plain, clipped) / 2, mask, aggregation, denominator)
    with torch.no_grad():
        stats = {
            "clip_fraction": masked_mean((clipped > plain).float(), mask),
            "error": masked_mean(plain, mask),
            "tokens": mask.sum(),
        }
    return loss, stats


def explained_variance(
    values: Tensor, returns: Tensor, mask: Tensor, reduce: Reduce | None = None
) -> Tensor:
    """``1 - Var[R - V] / Var[R]`` over valid tokens: 1 perfect, 0 no better than a constant.

    0 where the returns do not vary, since there is nothing to explain. `reduce` as in `whiten`.
    """
    _, _, spread = masked_moments(returns, mask, reduce)
    _, _, residual = masked_moments(returns - values, mask, reduce)
    return torch.where(spread > 0, 1 - residual / spread.clamp(min=1e-12), torch.zeros_like(spread))


def adaptive_beta(
    beta: float, kl: float, target: float, samples: int, horizon: float = 10_000
) -> float:
    """The next KL weight: ``beta (1 + clip(kl / target - 1, -.2, .2) samples / horizon)``.

    kl and target are in nats per *sequence* (the sum over an answer's tokens, averaged over
    answers); samples and horizon count answers. Source: Ziegler et al. 2019, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * samples / horizon)
