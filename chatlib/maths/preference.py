"""Preferences between two answers: Bradley-Terry, its loss and ceiling, calibration, DPO (ch. 4).

Shapes: N pairs; scores, probabilities and sequence log-probabilities are (N,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def preference_probability(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """Probability that the first answer is preferred: ``sigmoid((r_1 - r_2) / temperature)``.

    Only the difference of scores counts, so a reward's zero is arbitrary. The temperature is
    the annotator's noise. Source: Bradley and Terry 1952.
    """
    return torch.sigmoid((first - second) / temperature)


def log_likelihood(scores: Tensor, wins: Tensor) -> Tensor:
    """Of a tournament under Bradley-Terry: ``sum_ij n_ij log sigmoid(r_i - r_j)``.

    scores is (n,), ``wins[i, j]`` (n, n) counts how often i was preferred to j. Minus this, with
    r computed by a network and each pair seen once, is `pairwise_loss` times the pairs.
    """
    return (wins * F.logsigmoid(scores[:, None] - scores[None, :])).sum()


def pairwise_loss(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | float | None = None,
    denominator: Tensor | float | None = None,
) -> Tensor:
    """``L = - mean log sigmoid(r_chosen - r_rejected - margin)``, log 2 for an ignorant model.

    The margin, when annotators gave one, is by how much the scores should differ at least.
    `denominator` replaces the number of pairs when they are spread over micro-batches or ranks.
    Source: Ouyang et al. 2022, equation 1; margin: Touvron et al. 2023 (Llama 2), equation 2.
    """
    gap = chosen - rejected - (0.0 if margin is None else margin)
    count = gap.numel() if denominator is None else denominator
    return -F.logsigmoid(gap).sum() / count


def pairwise_accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Share of pairs in which the chosen answer scores higher; a tie counts one half."""
    return ((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean()


def bayes_accuracy(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """The best accuracy any model can expect on noisy annotations: ``mean max(p, 1 - p)``.

    first and second are the *gold* rewards of each pair, p their `preference_probability`.
    """
    p = preference_probability(first, second, temperature)
    return torch.maximum(p, 1 - p).mean()


def calibration_table(probability: Tensor, outcome: Tensor, bins: int = 10) -> dict[str, Tensor]:
    """What was predicted and what happened, in equal bins of the predicted probability.

    probability (N,) in [0, 1]; outcome (N,) of 0 and 1. Returns ``lower`` edge, ``count``, mean
    ``predicted`` and ``observed`` share, each (bins,); an empty bin has count 0 and means 0.
    Show pairs in random order, not chosen first, or every outcome is 1.
    Source: Guo et al. 2017, section 2.
    """
    index = (probability * bins).long().clamp(0, bins - 1)
    count = torch.bincount(index, minlength=bins)

    def mean(x: Tensor) -> Tensor:
        return torch.bincount(index, weights=x.double(), minlength=bins) / count.clamp(min=1)

    return {
        "lower": torch.arange(bins, device=index.device) / bins,
        "count": count,
        "predicted": mean(probability),
        "observed": mean(outcome),
    }


def expected_calibration_error(probability: Tensor, outcome: Tensor, bins: int = 10) -> Tensor:
    """``ECE = sum_b n_b / N |observed_b - predicted_b|``. Source: Guo et al. 2017, equation 3."""
    table = calibration_table(probability, outcome, bins)
    gap = (table["observed"] - table["predicted"]).abs()
    return (table["count"] * gap).sum() / table["count"].sum()


def dpo_loss(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    ref_chosen_logp: Tensor,
    ref_rejected_logp: Tensor,
    beta: float = 0.1,
    denominator: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``L = - mean log sigmoid(r_c - r_r)`` with implicit reward ``r = beta (log pi - log ref)``.

    Each argument (N,) is the log-probability of a whole answer in nats: the sum over its valid
    tokens. Returns the loss and ``reward_chosen``, ``reward_rejected``, ``accuracy``.
    `denominator` replaces the number of pairs. Source: Rafailov et al. 2023, equation 7.
    """
    reward_chosen = beta * (chosen_logp - ref_chosen_logp.detach())
    reward_rejected = beta * (rejected_logp - ref_rejected_logp.detach())
    stats = {
        "reward_chosen": reward_chosen.detach().mean(),
        "reward_rejected": reward_rejected.detach().mean(),
        "accuracy": pairwise_accuracy(reward_chosen, reward_rejected),
    }
    return pairwise_loss(reward_chosen, reward_rejected, denominator=denominator), stats


def ipo_loss(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    ref_chosen_logp: Tensor,
    ref_rejected_logp: Tensor,
    beta: float = 0.1,
    denominator: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``L = mean (h - 1 / (2 beta))^2``, h the difference of the two answers' log-ratios.

    A finite target, 1/(2 beta) nats, where DPO's loss goes on falling: preferences that are always
    the same way cannot drive the policy off the reference. Arguments and results as of `dpo_loss`.
    Source: Azar et al. 2024, equation 17 (their tau is beta).
    """
    _, stats = dpo_loss(chosen_logp, rejected_logp, ref_chosen_logp, ref_rejected_logp, beta)
    h = chosen_logp - rejected_logp - (ref_chosen_logp - ref_rejected_logp).detach()
    count = h.numel() if denominator is None else denominator
    return (h - 1 / (2 * beta)).square().sum() / count, stats
