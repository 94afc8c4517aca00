"""One iteration of PPO token by token: what the token microscope of chapter 5 records.

A run leaves its policy and no critic. So the critic first learns the values of answers that the
finished policy gives to other prompts; then the policy goes through one more iteration, in one
process, by the functions of the run: answers, experience, advantages, minibatches, losses.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from chatlib.data import template
from chatlib.data.shop import Scenario
from chatlib.evaluate.policy import scenarios
from chatlib.maths import policy as maths
from chatlib.maths.likelihood import log_softmax
from chatlib.settings.registry import parse
from chatlib.settings.stages import PPOConfig
from chatlib.train import models, ppo, rollout

if TYPE_CHECKING:
    from chatlib.runs.store import Run

ANSWERS, OTHERS = 64, 256  # prompts of the iteration, and of the answers that teach the critic
CRITIC_RATE, PASSES, TOGETHER = 1e-3, 3, 32  # of the critic's lessons: rate, passes, rows a step
ALTERNATIVES = 4  # likeliest other tokens that are kept


@dataclass
class Iteration:
    """A rollout, what its tokens were paid, and where an iteration's updates have moved them.

    ``rewards``, ``ratio`` (of the policy after the updates to the one that wrote the answers) and
    ``clipped`` (whether the token's gradient is 0 there) are (batch, time), as in ``rollout``.
    """

    cases: Sequence[Scenario]
    nets: ppo.Models[nn.Module]
    rollout: ppo.Rollout
    rewards: Tensor
    ratio: Tensor
    clipped: Tensor
    explained: float  # the critic's explained variance on these answers, which it has not seen

    @property
    def clip_fraction(self) -> float:
        """The share of the iteration's tokens that are clipped at its end."""
        return float(self.clipped.sum() / self.rollout.mask.sum())


def networks(config: PPOConfig, policy: str) -> ppo.Models[nn.Module]:
    """The four models of a run, its finished policy as the actor; the critic knows nothing yet."""
    tokenizer = models.load_tokenizer(policy)
    with models.no_bar():
        actor = models.load_policy(policy, tokenizer)
        reference = ppo.load_reference(config, tokenizer, torch.float32)
        scorer, theirs = ppo.load_reward_model(config, tokenizer, torch.float32)
        critic = ppo.load_critic(config, tokenizer, reads_texts=theirs is not None)
    for model in (actor, reference, critic, *([scorer.model] if scorer else [])):
        models.disable_dropout(model)
    together = ppo.ROWS_TOGETHER
    answering, frozen = models.AnswerLM(actor, together), models.AnswerLM(reference, together)
    valuing = models.TokenScorer(critic, together)
    return ppo.Models[nn.Module](answering, valuing, frozen, scorer, tokenizer, theirs)


def iteration(run: Run, seed: int = 0, answers: int = ANSWERS, others: int = OTHERS) -> Iteration:
    """One more iteration of a finished PPO run, on prompts that no stage trained on.

    The rates are those of the run's beginning. The model folders stay as they are.
    """
    config = cast(PPOConfig, parse(run.config))
    nets, cases = networks(config, run.reference), scenarios(answers + others)
    beta = float(run.manifest.get("beta", config.kl_ctl))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = experience(config, nets, cases)
        ppo.add_advantages(config, whole, beta)  # the returns that the critic learns
        teach(config, nets, whole.take([*range(answers, len(whole.rows))]))
        r = whole.take([*range(answers)])
        r.values = _no_gradient(ppo.state_values, nets.critic, r, nets.pad)
        ppo.add_advantages(config, r, beta)
        moved = updated(config, nets, r, beta)
    explained = maths.explained_variance(r.values, ppo.known(r.returns), r.mask).item()
    logp, _ = _no_gradient(ppo.log_probs, moved, r, nets.pad, config.temperature)
    ratio, clipped = (logp - r.old_logp).exp(), clipped_tokens(config, r, logp)
    return Iteration(cases[:answers], nets, r, rewards(config, r, beta), ratio, clipped, explained)


def experience(
    config: PPOConfig, nets: ppo.Models[nn.Module], cases: Sequence[Scenario]
) -> ppo.Rollout:
    """One answer of the actor to each case, with all that the models say of it."""
    prompts = template.encode_prompts(nets.tokenizer, [case.messages() for case in cases])
    limits = config.max_answer_tokens, nets.tokenizer.eos_token_id, nets.pad, config.temperature
    said = rollout.sample(ppo.unwrapped(nets.actor), prompts, *limits)
    return ppo.make_experience(config, nets, prompts, said)


def teach(config: PPOConfig, nets: ppo.Models[nn.Module], r: ppo.Rollout) -> None:
    """Regression of the critic on the returns of answers, in their order."""
    critic = cast(nn.Module, nets.critic)
    adam = _optimizer(config, critic, CRITIC_RATE)
    for start in [*range(0, len(r.rows), TOGETHER)] * PASSES:
        part = r.take([*range(start, min(start + TOGETHER, len(r.rows)))])
        values = ppo.state_values(critic, part, nets.pad)
        loss, _ = maths.value_loss(values, values, ppo.known(part.returns), part.mask, clip=None)
        _step(adam, loss)


def updated(
    config: PPOConfig, nets: ppo.Models[nn.Module], r: ppo.Rollout, beta: float
) -> nn.Module:
    """A copy of the actor after the passes of one iteration over a rollout."""
    moved = copy.deepcopy(nets.actor)
    adam = _optimizer(config, moved, config.actor_learning_rate)
    for _ in range(config.ppo_epochs):
        for index in ppo.minibatches(len(r.rows), config):
            part = r.take(index)
            count = ppo.denominator(config, part)
            _step(adam, ppo.actor_loss(config, moved, part, nets.pad, count, beta)[0])
    return moved


def rewards(config: PPOConfig, r: ppo.Rollout, beta: float) -> Tensor:
    """What each token was paid, as `chatlib.train.ppo.add_advantages` has it. (batch, time)"""
    kl = maths.kl_estimate(r.old_logp, r.ref_logp, config.kl_estimator)
    score = maths.final_score(r.paid, r.ended, config.missing_eos_penalty, config.clip_reward_value)
    return maths.shaped_rewards(score, kl, r.mask, beta if config.kl_in == "reward" else 0.0)


def clipped_tokens(config: PPOConfig, r: ppo.Rollout, logp: Tensor) -> Tensor:
    """Whether the loss takes the clipped side, asked of `policy_loss` token by token."""
    found = torch.zeros_like(r.mask, dtype=torch.bool)
    advantages = ppo.known(r.advantages)
    for i, t in r.mask.nonzero().tolist():
        here = (slice(i, i + 1), slice(t, t + 1))
        _, stats = maths.policy_loss(
            logp[here], r.old_logp[here], advantages[here], r.mask[here], config.cliprange
        )
        found[i, t] = stats["clip_fraction"] > 0
    return found


# ------------------------------------------------------------------------ what is kept
def tokens(one: Iteration, i: int) -> dict[str, list[Any]]:
    """All figures of one answer's tokens, a list each: see `COLUMNS` of `chatlib.book.microscope`.

    ``kl`` and ``entropy`` are exact, over the whole vocabulary; ``others`` are the likeliest
    tokens besides the one that was drawn, with their probabilities.
    """
    r, said = one.rollout, one.rollout.answers[i]
    policy, reference = (_logits(net, r, i) for net in (one.nets.actor, one.nets.reference))
    logp, row = log_softmax(policy), slice(0, len(said))
    figures = {
        "logp": r.old_logp[i, row],
        "ref": r.ref_logp[i, row],
        "kl": maths.exact_kl(policy, reference),
        "entropy": -(logp.exp() * logp).sum(-1),
        "reward": one.rewards[i, row],
        "value": r.values[i, row],
        "advantage": ppo.known(r.advantages)[i, row],
        "ratio": one.ratio[i, row],
    }
    found: dict[str, list[Any]] = {"text": [one.nets.tokenizer.decode([t]) for t in said]}
    found |= {name: [round(x, 4) for x in values.tolist()] for name, values in figures.items()}
    found["clipped"] = one.clipped[i, row].tolist()
    found["others"] = [_others(one, p, t) for p, t in zip(logp.exp(), said)]
    return found


def _others(one: Iteration, probabilities: Tensor, said: int) -> list[tuple[str, float]]:
    likely = probabilities.topk(ALTERNATIVES + 1)
    pairs = zip(likely.indices.tolist(), likely.values.tolist())
    kept = [(str(one.nets.tokenizer.decode([t])), round(p, 4)) for t, p in pairs if t != said]
    return kept[:ALTERNATIVES]


@torch.no_grad()
def _logits(net: nn.Module, r: ppo.Rollout, i: int) -> Tensor:
    """Logits at the places before the tokens of one answer. (tokens, vocabulary)"""
    row, said = torch.tensor([r.rows[i]], device=r.mask.device), len(r.answers[i])
    return ppo.unwrapped(net)(input_ids=row).logits[0, -said - 1 : -1]


def _optimizer(config: PPOConfig, net: nn.Module, rate: float) -> torch.optim.Optimizer:
    how: dict[str, Any] = {"betas": config.betas, "eps": config.adam_epsilon, "weight_decay": 0.0}
    return torch.optim.AdamW(net.parameters(), lr=rate, **how)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _no_gradient(function: Any, *arguments: Any) -> Any:
    return function(*arguments)
