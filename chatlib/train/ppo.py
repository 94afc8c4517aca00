"""Policy optimisation of a chat policy (chapters 5 and 10): sample, score, learn, repeat.

Row by row of an answer y_1 ... y_T to a prompt x:

    state  s_t = (x, y_1 .. y_{t-1})     action  y_t     value  V(s_t), read at the token before y_t
    reward r_t = -beta KL_t + [t = T] score(x, y)         advantage  GAE(r, V), or without V

Without a critic an answer is compared with the other answers to its prompt, or with all; see
`add_advantages`. Answers to one prompt stand next to each other, on one rank.

Sequences are stored unpadded and padded on the right for each pass; all (batch, time) tensors
below are aligned with the answers, whose first token stands in column 0.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatlib.data import checkers, collate, judges, template
from chatlib.data.judges import Judge
from chatlib.data.schema import Dialogue, Record
from chatlib.data.template import Encoded
from chatlib.maths import policy as maths
from chatlib.maths.likelihood import negative_log_likelihood, whiten
from chatlib.runs.recorder import Recorder
from chatlib.settings.deepspeed import Role, zero_stage
from chatlib.settings.stages import PPOConfig
from chatlib.train import engine, models, packing, reward, rollout, sft
from chatlib.train.finite import require_finite
from chatlib.train.models import AnswerLM, TextScorer, TokenScorer
from chatlib.train.packing import Rows
from chatlib.train.records import load_data
from chatlib.train.sft import due
from chatlib.train.throughput import Size, forward_flops, rates, training_flops

# Rows of a forward pass, at most. Prompts are drawn at random, so a batch's lengths differ widely:
# of the book's minibatches of 16 rows 31 % are padding, and 16 % when eight of similar length go
# together. Of 32 rows on two threads, groups of 11 were fastest (8: 1.11, 16: 1.05 times as long).
# A card, for which more at once is better, takes a whole micro-batch: see `rows_together`.
ROWS_TOGETHER = 12
OF_CRITIC = ("value_error", "explained_variance")  # figures that a run without one does not have
Trained = TypeVar("Trained", bound=nn.Module, covariant=True)


@dataclass(frozen=True)
class Models(Generic[Trained]):
    """The models of a rollout: engines in a launch, on a page the bare `AnswerLM`, `TokenScorer`.

    Without a ``critic`` every value is 0, without a reward model every score. ``reward_tokenizer``
    is given for a reward model that reads other ids than the policy, a `TextScorer`: it gets the
    answers as texts.
    """

    actor: Trained
    critic: Trained | None
    reference: nn.Module
    reward_model: nn.Module | None
    tokenizer: PreTrainedTokenizerBase
    reward_tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def pad(self) -> int:
        """The policy's padding id."""
        return self.tokenizer.pad_token_id

    @property
    def device(self) -> torch.device:
        """Where the actor computes, and so everything does."""
        return next(self.actor.parameters()).device


@dataclass
class Rollout:
    """Answers drawn from the policy and all that is known of them; nothing here has a gradient.

    ``rows`` are prompt + answer, ``answers`` the answers alone. The tensors are (batch, time),
    0 on padding, but for ``score`` (the reward model's), ``paid`` (what the answer is paid: the
    score, unless `pay` says otherwise), ``ended`` and ``cut`` (whether the reward model could not
    read the beginning), which are (batch,). ``together`` answers, those to one prompt, are read
    in one row (`packing`).
    """

    rows: list[list[int]]
    answers: list[list[int]]
    mask: Tensor
    old_logp: Tensor
    ref_logp: Tensor
    values: Tensor
    entropy: Tensor
    score: Tensor
    paid: Tensor
    ended: Tensor
    cut: Tensor
    advantages: Tensor | None = None
    returns: Tensor | None = None
    together: int = 1

    def take(self, index: list[int]) -> Rollout:
        """The rollout of some of the rows."""
        picked: dict[str, Any] = {}  # tensors and lists
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                value = [value[i] for i in index]
            picked[f.name] = value[index] if isinstance(value, Tensor) else value
        return Rollout(**picked)


# ------------------------------------------------------------------ forward passes
def answer_mask(rows: list[list[int]], answers: list[list[int]]) -> Tensor:
    """1 on the answers' tokens of right-padded rows. (batch, longest row)"""
    marks = [[0] * (len(row) - len(a)) + [1] * len(a) for row, a in zip(rows, answers)]
    return collate.pad(marks, 0)[0]


def to_grid(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of the valid tokens, row by row, as a (batch, time) tensor with 0 on padding."""
    empty = torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device)
    return empty.masked_scatter(mask.bool(), flat)


def log_probs(
    net: nn.Module, r: Rollout, pad: int, temperature: float, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(log pi of each answer token, entropy there), both (batch, time)."""
    ids, marked, *packed = collate.to_device(r.mask.device, *as_read(r, pad))
    logp, entropy = net(ids, marked, temperature, with_entropy, *packed)
    return to_grid(logp, r.mask), None if entropy is None else to_grid(entropy, r.mask)


def state_values(net: nn.Module, r: Rollout, pad: int) -> Tensor:
    """V(s_t) for every answer token t, read one place before it. (batch, time)"""
    ids, marked, *packed = as_read(r, pad)
    before = torch.zeros_like(ids)
    before[:, :-1] = marked[:, 1:]
    return to_grid(net(*collate.to_device(r.mask.device, ids, before, *packed)), r.mask)


def scores(nets: Models[nn.Module], r: Rollout) -> Tensor:
    """The reward model's score of every answer, read at its last token. (batch,)"""
    if nets.reward_model is None:
        return torch.zeros_like(r.score)
    if r.together == 1:
        return reward.score(nets.reward_model, r.rows, nets.tokenizer, nets.device)
    return reward.score_groups(nets.reward_model, *packed(r), nets.tokenizer, nets.device)


def as_read(r: Rollout, pad: int) -> list[Tensor]:
    """What a model is given: ids and 1 on the answers' tokens, (batch, time); for rows of several
    answers their positions, too, and which token attends to which."""
    if r.together == 1:
        return [collate.pad(r.rows, pad)[0], answer_mask(r.rows, r.answers)]
    rows, positions, parts = packed(r)
    # A part begins with the prompt's last token, which predicts the answer's first.
    marks = [[int(p > 0 and p == q) for q, p in zip([0, *part], part)] for part in parts]
    tensors = [collate.pad(rows, pad)[0], *(collate.pad(x, 0)[0] for x in (marks, positions))]
    return [*tensors, packing.attended(parts)]


def packed(r: Rollout) -> tuple[Rows, Rows, Rows]:
    """(ids, positions, parts): the answers to a prompt in one row, all but its last token once."""
    starts = range(0, len(r.rows), r.together)
    shared = [len(r.rows[i]) - len(r.answers[i]) - 1 for i in starts]
    return packing.side_by_side([r.rows[i : i + r.together] for i in starts], shared)


# ------------------------------------------------------------------------ one rollout
def generate(
    config: PPOConfig,
    actor: engine.Engine,
    prompts: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """One draw from the policy for each prompt, in ``generation_batches`` parts."""
    stop, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    size = len(prompts) // config.generation_batches  # prompts come once for each of their answers
    answers: list[list[int]] = []
    actor.eval()
    limits, each = (config.max_answer_tokens, stop, pad, config.temperature), config.together
    with engine.whole(actor):
        for i in range(0, len(prompts), size):
            asked = prompts[i : i + size : each]
            answers += rollout.sample(actor.module.model, asked, *limits, each=each)
    actor.train()
    return answers


@torch.no_grad()
def make_experience(
    config: PPOConfig,
    nets: Models[nn.Module],
    prompts: list[list[int]],
    answers: list[list[int]],
    asked: Sequence[Record] = (),
) -> Rollout:
    """The rollout of given answers: one pass through each of the models.

    The old log-probabilities come from the forward pass that is trained, not from the sampler:
    the ratio of the first minibatch is then exactly 1. ``asked`` are the prompts' records, which
    a reward model with a tokenizer of its own needs.
    """
    rows = [p + a for p, a in zip(prompts, answers)]
    mask = collate.pad([[1] * len(a) for a in answers], 0)[0].to(nets.device)
    ended = torch.tensor([a[-1] == nets.tokenizer.eos_token_id for a in answers])
    none, ended = torch.zeros_like(mask, dtype=torch.float32), ended.to(nets.device)
    unread, unpaid = torch.zeros_like(ended), none[:, 0]
    r = Rollout(rows, answers, mask, none, none, none, none, unpaid, unpaid, ended, unread)
    r.together = config.together
    r.old_logp, entropy = log_probs(nets.actor, r, nets.pad, config.temperature, True)
    r.entropy = cast(Tensor, entropy)  # it was asked for
    r.ref_logp, _ = log_probs(nets.reference, r, nets.pad, config.temperature)
    if nets.critic:
        r.values = state_values(nets.critic, r, nets.pad)
    if nets.reward_model is None or nets.reward_tokenizer is None:
        r.score = scores(nets, r)
    else:
        texts = template.decode(nets.tokenizer, answers)
        whole = (nets.reward_model, [record.prompt for record in asked], texts)
        r.score, r.cut = reward.score_texts(*whole, nets.reward_tokenizer, nets.device)
    r.paid = r.score
    return r


def pay(
    config: PPOConfig,
    r: Rollout,
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    judged_by: Sequence[Judge],
) -> None:
    """Let the judge or a checker pay instead of the reward model, or nobody, as ``reward`` says."""
    if config.reward == "none":
        r.paid = torch.zeros_like(r.score)
    if config.reward in ("model", "none"):
        return
    texts = template.decode(tokenizer, r.answers)
    if config.reward == "gold":
        paid = [verdict.total for verdict in judges.verdicts(judged_by, records, texts)]
    else:
        paid = checkers.paid(config.reward, records, texts)
    r.paid = torch.tensor(paid, dtype=r.score.dtype).to(r.score.device)


def add_advantages(config: PPOConfig, r: Rollout, beta: float) -> None:
    """Rewards, advantages and returns. Scores are clipped first, so the KL never is.

    With a critic: GAE. Without: what follows a token, against the mean of all tokens (global), or
    an answer's whole reward against those of the prompt's other answers (group, rloo).

    The returns are formed before whitening, which only the advantages get: the critic learns
    the rewards' own scale. Whitening is over all ranks' tokens; a group is its own scale.
    """
    kl = maths.kl_estimate(r.old_logp, r.ref_logp, config.kl_estimator)
    score = maths.final_score(r.paid, r.ended, config.missing_eos_penalty, config.clip_reward_value)
    rewards = maths.shaped_rewards(score, kl, r.mask, beta if config.kl_in == "reward" else 0.0)
    if config.whiten_rewards:
        rewards = whiten(rewards, r.mask, shift_mean=False, reduce=engine.sum_over_ranks)
    if config.advantage == "gae":
        advantages, r.returns = maths.gae(rewards, r.values, r.mask, config.gamma, config.lam)
    else:
        advantages = r.returns = maths.rewards_to_go(rewards, r.mask, config.gamma)
    if config.advantage in ("group", "rloo"):
        r.advantages = among_answers(config, rewards)[:, None] * r.mask
    else:
        r.advantages = whiten(advantages, r.mask, reduce=engine.sum_over_ranks)


def among_answers(config: PPOConfig, rewards: Tensor) -> Tensor:
    """An answer's whole reward against those of the other answers to its prompt. (batch,)"""
    totals = rewards.sum(1).view(-1, config.answers_per_prompt)  # (prompts, answers)
    if config.advantage == "rloo":
        return maths.rloo_advantages(totals).flatten()
    return maths.group_advantages(totals, config.group_scale).flatten()


def alike(config: PPOConfig, r: Rollout) -> Tensor:
    """Whether a prompt's answers were all paid the same: they teach nothing. (prompts,)"""
    paid = r.paid.view(-1, config.answers_per_prompt)
    return (paid.amax(1) - paid.amin(1)) < 1e-6


def known(x: Tensor | None) -> Tensor:
    """Advantages or returns, once they are there; `ValueError` before."""
    if x is None:
        raise ValueError("the rollout has no advantages yet; call `add_advantages` on it first")
    return x


# ------------------------------------------------------------------------ one update
def denominator(config: PPOConfig, r: Rollout) -> Tensor:
    """By what a minibatch's summed loss is divided: over all ranks and micro-batches."""
    count = {
        "token": r.mask.sum(),
        "sequence": len(r.rows),
        "constant": len(r.rows) * config.max_answer_tokens,
    }[config.loss_aggregation]
    return engine.sum_over_ranks(torch.as_tensor(count, dtype=torch.float32)).to(r.mask.device)


def actor_loss(
    config: PPOConfig, actor: nn.Module, part: Rollout, pad: int, count: Tensor, beta: float
) -> tuple[Tensor, maths.Stats]:
    """(loss, statistics) of the policy on a micro-batch; a term of the minibatch's sum."""
    how = (config.loss_aggregation, count)
    bonus = config.entropy_coefficient
    logp, entropy = log_probs(actor, part, pad, config.temperature, with_entropy=bonus > 0)
    loss, stats = maths.policy_loss(
        logp, part.old_logp, known(part.advantages), part.mask, config.cliprange, *how
    )
    if config.kl_in == "loss":
        kl = maths.kl_estimate(logp, part.ref_logp, config.kl_estimator)
        loss = loss + beta * maths.aggregate(kl, part.mask, *how)
    if entropy is not None:
        loss = loss - bonus * maths.aggregate(entropy, part.mask, *how)
    return loss, stats


def critic_loss(
    config: PPOConfig, critic: nn.Module, part: Rollout, pad: int, count: Tensor
) -> tuple[Tensor, maths.Stats]:
    """(loss, statistics) of the critic on a micro-batch; a term of the minibatch's sum."""
    values, clip = state_values(critic, part, pad), config.cliprange_value
    how = (config.loss_aggregation, count)
    return maths.value_loss(values, part.values, known(part.returns), part.mask, clip, *how)


def update(
    config: PPOConfig,
    nets: Models[engine.Engine],
    r: Rollout,
    beta: float,
    demonstrations: Sequence[Encoded] = (),
) -> tuple[Tensor, Tensor]:
    """One optimizer step of actor and critic on a minibatch.

    ``demonstrations``, one for each row, add the pretraining mixture's loss to the same step.
    Returns (sums over the tokens: 1, clipped, approximate KL, squared value error; largest
    |log ratio|).
    """
    count, size = denominator(config, r), len(r.rows) // config.gradient_accumulation_steps
    sums, largest = torch.zeros(4), torch.zeros(())
    shown = engine.sum_over_ranks(torch.tensor(sum(sum(e.mask) for e in demonstrations)))
    for start in range(0, len(r.rows), size):
        part = r.take(list(range(start, start + size)))
        loss, stats = actor_loss(config, nets.actor, part, nets.pad, count, beta)
        if own := demonstrations[start : start + size]:
            loss = loss + ptx_loss(config, nets.actor, own, nets.pad, shown.to(loss.device))
        engine.backward(nets.actor, loss)
        nets.actor.step()
        error = torch.zeros_like(stats["approx_kl"])
        if nets.critic:
            loss, v_stats = critic_loss(config, nets.critic, part, nets.pad, count)
            engine.backward(nets.critic, loss)
            nets.critic.step()
            error = v_stats["error"]
        tokens = stats["tokens"].float()
        means = [stats["clip_fraction"], stats["approx_kl"], error]
        sums += torch.stack([tokens, *(m * tokens for m in means)]).cpu()
        largest = torch.maximum(largest, stats["max_log_ratio"].detach().cpu())
    return sums, largest


def ptx_loss(
    config: PPOConfig, actor: nn.Module, shown: Sequence[Encoded], pad: int, total: Tensor
) -> Tensor:
    """The pretraining mixture (Ouyang et al. 2022, equation 2): SFT's loss on demonstrations.

    ``total`` counts the answer tokens of the minibatch's demonstrations, over all ranks.
    """
    ids, mask = collate.to_device(total.device, *sft.tensors(list(shown), pad))
    logp, _ = actor(ids, mask)
    return config.unsup_coef * negative_log_likelihood(logp, denominator=total)


def demonstrations_of(
    config: PPOConfig, records: list[Record], tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[Encoded]:
    """The prompts' own answers, cut to ``limit`` tokens; none unless the mixture has a weight."""
    if not config.unsup_coef:
        return []
    shown = [r if isinstance(r, Dialogue) else r.dialogue() for r in records]
    encoded = template.encode(tokenizer, [d.messages for d in shown])
    return [e.cut(limit) for e in encoded]


# ------------------------------------------------------------------------ the loop
@dataclass
class Clock:
    """Seconds and FLOPs (all ranks') of the parts of an iteration since this launch began."""

    spent: dict[str, float] = field(
        default_factory=lambda: {"generate": 0.0, "score": 0.0, "learn": 0.0}
    )
    work: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def add(self, times: list[float], work: Tensor) -> dict[str, float]:
        """Count an iteration from the four times that bound its parts; returns its seconds."""
        seconds = dict(zip(self.spent, (b - a for a, b in itertools.pairwise(times))))
        self.spent = {name: self.spent[name] + seconds[name] for name in self.spent}
        self.work = self.work + work
        return {f"{name}_seconds": own for name, own in seconds.items()}

    def total(self) -> dict[str, float]:
        """All seconds, as a summary has them."""
        return {"train_seconds": sum(self.spent.values())}


def train(config: PPOConfig, recorder: Recorder) -> dict:
    """Tune the policy against the reward model; returns the manifest's summary."""
    device = engine.start(config, recorder)
    recorder.beat(0, "read the data")
    data, judged_by = load_data(config, recorder), judges.of(config.sources)
    recorder.beat(0, "load the models")
    nets = load_models(config, device, recorder)
    limit = models.max_length(nets.actor.module.model, config.max_seq_len)
    prompts, records, lost = encode(nets.tokenizer, data.train, room(config, limit))
    report = [*data.report, *lost]
    recorder.tell_data(report)
    if config.reward == "gold":
        judges.require(judged_by, records)
    # Equal lengths: a batch of similar prompts would hold few intents, and its mean tell little.
    size, each = config.batch_size * config.generation_batches, config.answers_per_prompt
    batches = collate.Batches([1] * len(prompts), size, config.seed, lost)
    torch.manual_seed(config.seed * 1000 + recorder.rank)  # every rank draws its own samples
    ema = Ema(config.ema_decay, nets.actor.module.model) if config.enable_ema else None
    first, beta, tokens = restore(config, nets, ema, recorder)
    sizes = sizes_of(nets)
    clock, before = Clock(), tokens

    for step in range(first, config.steps):
        recorder.beat(step, "generate")
        times = [time.perf_counter()]
        own = collate.shard(batches.at(step), recorder.rank, recorder.world)
        own = [i for i in own for _ in range(each)]
        asked, theirs = [prompts[i] for i in own], [records[i] for i in own]
        answers = generate(config, nets.actor, asked, nets.tokenizer)
        times.append(time.perf_counter())

        recorder.beat(step, "score")
        r = make_experience(config, nets, asked, answers, theirs)
        pay(config, r, theirs, nets.tokenizer, judged_by)
        add_advantages(config, r, beta)
        times.append(time.perf_counter())

        recorder.beat(step, "learn")
        shown = demonstrations_of(config, theirs, nets.tokenizer, limit)
        sums, learnt = learn(config, nets, r, beta, shown, ema)
        times.append(time.perf_counter())

        done, figures = step + 1, describe(r, sums, theirs, nets.tokenizer, judged_by)
        tokens += int(figures.pop("rows_tokens"))
        figures |= clock.add(times, engine.sum_over_ranks(flops(config, *sizes, r)))
        seen = (done - first) * config.rollout, tokens - before
        figures |= throughput_of(*seen, clock, recorder.world)
        log(config, nets, recorder, done, r, figures | {"beta": beta, **learnt, "tokens": tokens})
        if config.kl_target:
            beta = next_beta(config, beta, figures["kl"])
        if due(config.print_answers, done) and recorder.rank == 0:
            show(recorder, theirs[:3], template.decode(nets.tokenizer, answers[:3]))
        if recorder.saves_at(done, config.save_every):
            save_checkpoint(config, nets, ema, recorder, done, {"beta": beta, "tokens": tokens})

    recorder.beat(config.steps, "save")
    save_models(nets, ema, recorder)
    seen = (config.steps - first) * config.rollout, tokens - before
    summary = {"examples": len(prompts), "tokens": tokens, "beta": beta, "data_report": report}
    return summary | clock.total() | throughput_of(*seen, clock, recorder.world)


def learn(
    config: PPOConfig,
    nets: Models[engine.Engine],
    r: Rollout,
    beta: float,
    demonstrations: list[Encoded],
    ema: Ema | None,
) -> tuple[Tensor, dict[str, float]]:
    """A few passes over a rollout, in minibatches.

    Returns (the updates' sums; the largest |log ratio| of the first one over all ranks, and the
    learning rates of the last).
    """
    sums, ratios = torch.zeros(4), []
    for _ in range(config.ppo_epochs):
        for index in minibatches(len(r.rows), config):
            rates_now = learning_rates(nets)  # after the step they are the next one's
            shown = [demonstrations[i] for i in index] if demonstrations else []
            part_sums, largest = update(config, nets, r.take(index), beta, shown)
            sums += part_sums
            ratios.append(largest)
            if ema:
                ema.update()
    return sums, {"first_log_ratio": engine.max_over_ranks(ratios[0]).item(), **rates_now}


# ------------------------------------------------------------------------ its parts
def load_models(
    config: PPOConfig, device: torch.device, recorder: Recorder
) -> Models[engine.Engine]:
    """Engines around actor and critic, frozen reference and reward model; dropout off."""
    dtype, tokenizer = engine.dtype_of(config, device), models.load_tokenizer(config.model)
    together = rows_together(config, device)
    scorer, reward_tokenizer = load_reward_model(config, tokenizer, dtype, together)
    actor = models.load_policy(config.model, tokenizer, dtype)
    if config.share_prompts:
        models.require_positions(actor)
    own = config.starts_as_reference
    reference = models.twin(actor) if own else load_reference(config, tokenizer, dtype)
    critic = None
    if "critic" in config.roles:
        critic = load_critic(config, tokenizer, reward_tokenizer is not None, dtype)
    models.adapt(actor, config, "CAUSAL_LM", recorder, "actor")
    if critic:
        models.adapt(critic, config, "SEQ_CLS", recorder, "critic")
    for model in (actor, critic, reference, scorer.model if scorer else None):
        if model:
            models.disable_dropout(model)  # that of the adapters, too
    total = config.steps * config.ppo_epochs * config.minibatches
    policy, rate = AnswerLM(actor, together), config.actor_learning_rate
    trained_policy = engine.initialize(config, policy, rate, total, "actor", recorder)
    trained_value = None
    if critic:
        value, rate = TokenScorer(critic, together), config.critic_learning_rate
        trained_value = engine.initialize(config, value, rate, total, "critic", recorder)
    of_actor, of_critic = zero_stage(config, "actor"), zero_stage(config, "critic")
    offload = config.offload_reference_model
    return Models(
        trained_policy,
        trained_value,
        engine.frozen(AnswerLM(reference, together), device, of_actor, offload),
        engine.frozen(scorer, device, of_critic) if scorer else None,
        tokenizer,
        reward_tokenizer,
    )


def load_reference(
    config: PPOConfig, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> PreTrainedModel:
    """What the KL is measured from; `ValueError` for a teacher that reads other ids."""
    name = config.reference or config.model
    if models.load_tokenizer(name).get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"reference {name} has another tokenizer than the policy {config.model}: their "
            "probabilities are of other tokens; take a reference with the policy's vocabulary"
        )
    return models.load_policy(name, tokenizer, dtype)


def rows_together(config: PPOConfig, device: torch.device) -> int:
    """Rows of a forward pass, at most: on a card a micro-batch, for which it has the memory."""
    return ROWS_TOGETHER if device.type == "cpu" else max(ROWS_TOGETHER, config.micro_batch)


def load_reward_model(
    config: PPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    together: int = ROWS_TOGETHER,
) -> tuple[TokenScorer | TextScorer | None, PreTrainedTokenizerBase | None]:
    """(reward model or None, its own tokenizer if the policy's ids mean something else to it)."""
    if config.reward_model is None:
        return None, None
    theirs = models.load_tokenizer(config.reward_model)
    if theirs.get_vocab() == tokenizer.get_vocab():
        model = models.load_scorer(config.reward_model, tokenizer, dtype)
        if hasattr(model, "score"):
            return TokenScorer(model, together), None
    theirs = models.load_reward_tokenizer(config.reward_model)
    return TextScorer(models.load_scorer(config.reward_model, theirs, dtype)), theirs


def load_critic(
    config: PPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    reads_texts: bool,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """The reward model, to be read at every token; the policy where that one reads texts.

    Raises `ValueError` when such a reward model's head is asked for.
    """
    if reads_texts and config.critic_init == "reward":
        raise ValueError(
            f"critic_init reward: {config.reward_model} has another tokenizer than the policy "
            f"{config.model}, so it has no value for the policy's tokens; use critic_init zero"
        )
    start = config.model if reads_texts or not config.reward_model else config.reward_model
    critic = models.load_scorer(start, tokenizer, dtype)
    if config.critic_init == "zero":  # V(s) = 0 at first: the first advantages are the rewards
        nn.init.zeros_(cast(nn.Linear, critic.score).weight)
        critic.config.score_mean, critic.config.score_std = 0.0, 1.0
    return critic


def unwrapped(net: nn.Module) -> PreTrainedModel:
    """The transformers model in a wrapper or in an engine around it."""
    return cast(models.Reader, getattr(net, "module", net)).model


def sizes_of(nets: Models[nn.Module]) -> tuple[Size, Size]:
    """What the arithmetic of policy and value depends on, off the models without adapters."""
    policy = models.size_of(unwrapped(nets.reference))
    return policy, models.size_of(unwrapped(nets.reward_model)) if nets.reward_model else policy


def room(config: PPOConfig, limit: int) -> int:
    """Tokens that a prompt may have; `ValueError` when the answers leave none."""
    if limit <= config.max_answer_tokens:
        raise ValueError(
            f"max_answer_tokens {config.max_answer_tokens} leaves no room for a prompt in "
            f"{limit} tokens; lower it, or raise max_seq_len as far as the model's context"
        )
    return limit - config.max_answer_tokens


def encode(
    tokenizer: PreTrainedTokenizerBase, records: list[Record], limit: int
) -> tuple[list[list[int]], list[Record], list[str]]:
    """(prompts' token ids, their records, report); a prompt that leaves no room is counted."""
    ids = template.encode_prompts(tokenizer, [r.prompt for r in records])
    fitting = [i for i, p in enumerate(ids) if len(p) <= limit]
    report = []
    if lost := len(ids) - len(fitting):
        report.append(f"{lost} of {len(ids)} prompts left out: longer than {limit} tokens")
    return [ids[i] for i in fitting], [records[i] for i in fitting], report


def engines_of(nets: Models[engine.Engine]) -> dict[str, engine.Engine]:
    """What is trained, by role."""
    return {"actor": nets.actor} | ({"critic": nets.critic} if nets.critic else {})


def learning_rates(nets: Models[engine.Engine]) -> dict[str, float]:
    """The rate of each trained model's next step, as the figures are called."""
    return {f"{role}_learning_rate": net.get_lr()[0] for role, net in engines_of(nets).items()}


def restore(
    config: PPOConfig, nets: Models[engine.Engine], ema: Ema | None, recorder: Recorder
) -> tuple[int, float, int]:
    """(steps done, beta, tokens read) from the recorder's checkpoint, or at a beginning."""
    first, state = engine.restore(engines_of(nets), recorder)
    if ema and recorder.checkpoint and "ema" in state:
        ema.restore(state["ema"], recorder.checkpoint)
    return first, state.get("beta", config.kl_ctl), state.get("tokens", 0)


def save_checkpoint(
    config: PPOConfig,
    nets: Models[engine.Engine],
    ema: Ema | None,
    recorder: Recorder,
    done: int,
    state: dict,
) -> None:
    """Write all that continuing needs, this rank's part of the average as well."""
    state = state | ({"ema": [a.cpu() for a in ema.average]} if ema else {})
    engine.save_checkpoint(engines_of(nets), config, recorder, done, state)


def save_models(nets: Models, ema: Ema | None, recorder: Recorder) -> None:
    """Write the policy as a model folder, and its average as another where one is kept."""
    engine.save_model(nets.actor, nets.tokenizer, recorder.directory / "model")
    if ema:
        ema.save(nets.tokenizer, recorder.directory / "model_ema")


def next_beta(config: PPOConfig, beta: float, kl: float) -> float:
    """The KL's weight after an iteration whose answers cost ``kl`` nats each, if it adapts."""
    if config.kl_target is None:
        return beta
    return maths.adaptive_beta(beta, kl, config.kl_target, config.rollout, config.kl_horizon)


def log(
    config: PPOConfig,
    nets: Models[engine.Engine],
    recorder: Recorder,
    done: int,
    r: Rollout,
    figures: dict[str, float],
) -> None:
    """The row of an iteration, with what the algorithm adds and without what it lacks.

    Raises `FloatingPointError` when the next answers would be drawn from weights that are no
    numbers.
    """
    lacks = () if nets.critic else OF_CRITIC
    row = {name: x for name, x in figures.items() if name not in lacks}
    engine.log(nets.actor, recorder, done, **row, **of_algorithm(config, r))
    for net in engines_of(nets).values():
        require_finite(net.module, done, {}, look=True)


def show(recorder: Recorder, records: list[Record], texts: list[str]) -> None:
    """Write a few answers to the rank's log."""
    for record, text in zip(records, texts):
        recorder.say(f"{record.prompt[-1]['content']}\n  -> {text}")


def flops(config: PPOConfig, policy: Size, value: Size, r: Rollout) -> Tensor:
    """FLOPs (3,) of this rank's iteration: generation, the scoring passes, the updates.

    Generation computes with the cache what one forward pass does; PTX is not counted.
    """
    rows = r.rows if r.together == 1 else packed(r)[0]
    read, answer = [len(row) - 1 for row in rows], sum(map(len, r.answers))
    once = [forward_flops(size, read, answer) for size in (policy, value)]
    learnt = {"actor": once[0], "critic": once[1]}
    score = once[0] + sum(learnt[role] for role in config.roles)  # the reference, and these
    if config.reward_model:
        score += forward_flops(value, [len(row) for row in rows], len(r.rows))
    sizes: dict[Role, Size] = {"actor": policy, "critic": value}
    learn = sum(training_flops(learnt[k], config, sizes[k], k) for k in config.roles)
    return torch.tensor([once[0], score, config.ppo_epochs * learn], dtype=torch.float64)


def throughput_of(samples: int, tokens: int, clock: Clock, ranks: int) -> dict[str, float]:
    """`rates` since this launch began, and those of generation and learning by themselves."""
    parts, spent = dict(zip(clock.spent, clock.work.tolist())), clock.spent
    tflops = {
        f"{name}_tflops": rates(samples, tokens, parts[name], spent[name], ranks)["tflops"]
        for name in ("generate", "learn")
    }
    seconds = sum(spent.values())
    share = {"generation_share": spent["generate"] / max(seconds, 1e-9)}
    return rates(samples, tokens, sum(parts.values()), seconds, ranks) | tflops | share


def minibatches(n: int, config: PPOConfig) -> list[list[int]]:
    """The rank's rows in random order, cut into minibatches; what is read together stays so."""
    each = config.together
    order = [each * i + k for i in torch.randperm(n // each).tolist() for k in range(each)]
    size = n // config.minibatches
    return [order[i * size : (i + 1) * size] for i in range(config.minibatches)]


class Ema:
    """Exponential moving average of the trained weights in fp32: a = d a + (1 - d) w.

    In bf16 an average would not move: (1 - d) w is below the spacing of a. It stays on the
    weights' device; at ZeRO stage 3 every rank averages the shards that it holds.
    """

    def __init__(self, decay: float, model: PreTrainedModel) -> None:
        self.model = model
        self.names: list[str] = []
        self.weights: list[Tensor] = []
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                self.names.append(name)
                self.weights.append(getattr(weight, "ds_tensor", weight))
        self.average = [w.detach().float().clone() for w in self.weights]
        self._average_with = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take in the present weights."""
        self._average_with(self.average, [w.detach().float() for w in self.weights], None)

    def restore(self, average: list[Tensor], folder: Path) -> None:
        """Go on with the average of a checkpoint, which other ranks may have shared out."""
        if [a.shape for a in average] != [a.shape for a in self.average]:
            average = self._shared_out_again(folder)
        self.average = [a.to(own.device) for a, own in zip(average, self.average)]

    def _shared_out_again(self, folder: Path) -> list[Tensor]:
        """This rank's shards of an average that stands in the checkpoint in shards of others."""
        files = [folder / f"rank{r}.pt" for r in range(engine.checkpoint_world(folder))]
        shards = [torch.load(file, weights_only=True)["state"]["ema"] for file in files]
        rank, own = engine.rank(), []
        for parts, here in zip(zip(*shards), self.average):
            whole, size = torch.cat(parts), here.numel()
            whole = nn.functional.pad(whole, (0, max(0, (rank + 1) * size - whole.numel())))
            own.append(whole[rank * size : (rank + 1) * size])
        return own

    def save(self, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
        """Write the average as a model folder, in the number format of the weights."""
        state = engine.gathered_state(self.model)
        shared = dict(self.model.named_parameters(remove_duplicate=False))
        for name, mean in zip(self.names, self.average):
            whole = engine.unsharded(mean, shared[name])
            for tied in (n for n in state if shared.get(n) is shared[name]):
                state[tied] = whole.to(state[tied].dtype).cpu()
        engine.save_state(state, self.model, tokenizer, directory)


def describe(
    r: Rollout,
    sums: Tensor,
    records: list[Record],
    tokenizer: PreTrainedTokenizerBase,
    judged_by: Sequence[Judge] = (),
) -> dict[str, float]:
    """What one iteration looked like: means over all ranks' answers, or their tokens.

    ``gold`` and ``well_formed`` are means over the answers that a judge knows the truth about: of
    a blend, a part. ``reward_cut`` is the share that the reward model could not read whole.
    """
    m = totals(r, sums, records, tokenizer, judged_by)
    answers, tokens, seen, judged = m["answers"], m["tokens"], max(m["seen"], 1.0), m["judged"]
    spread = maths.explained_variance(r.values, known(r.returns), r.mask, engine.sum_over_ranks)
    figures = {
        "score": m["score"] / answers,
        "kl": m["kl"] / answers,
        "entropy": m["entropy"] / tokens,
        "answer_tokens": tokens / answers,
        "ended": m["ended"] / answers,
        "clip_fraction": m["clipped"] / seen,
        "approx_kl": m["approx_kl"] / seen,
        "value_error": m["value_error"] / seen,
        "explained_variance": spread.item(),
        "rows_tokens": m["rows_tokens"],
    }
    if m["cut"]:
        figures["reward_cut"] = m["cut"] / answers
    if judged:
        figures |= {"gold": m["gold"] / judged, "well_formed": m["well_formed"] / judged}
    return figures


def of_algorithm(config: PPOConfig, r: Rollout) -> dict[str, float]:
    """Figures that only some settings have, means over all ranks: ``alike``, the share of prompts
    that teach nothing, and ``paid``, what a checker pays an answer."""
    own = {"alike": alike(config, r).float()} if config.answers_per_prompt > 1 else {}
    if config.reward not in ("model", "gold", "none"):
        own["paid"] = r.paid
    means = {
        k: engine.sum_over_ranks(x.sum()) / engine.sum_over_ranks(len(x)) for k, x in own.items()
    }
    return {name: mean.item() for name, mean in means.items()}


def totals(
    r: Rollout,
    sums: Tensor,
    records: list[Record],
    tokenizer: PreTrainedTokenizerBase,
    judged_by: Sequence[Judge],
) -> dict[str, float]:
    """Sums over all ranks' answers; ``sums`` are those of the updates."""
    kl = (r.old_logp - r.ref_logp).masked_fill(r.mask == 0, 0.0)
    verdicts = judges.verdicts(judged_by, records, template.decode(tokenizer, r.answers))
    own = dict(zip(("seen", "clipped", "approx_kl", "value_error"), sums)) | {
        "answers": len(r.rows),
        "score": r.score.sum(),
        "kl": kl.sum(),
        "tokens": r.mask.sum(),
        "ended": r.ended.sum(),
        "cut": r.cut.sum(),
        "entropy": (r.entropy * r.mask).sum(),
        "rows_tokens": sum(map(len, r.rows)),
        "judged": len(verdicts),
        "gold": sum(v.total for v in verdicts),
        "well_formed": sum(v.well_formed for v in verdicts),
    }
    values = torch.tensor([float(value) for value in own.values()], dtype=torch.float64)
    return dict(zip(own, engine.sum_over_ranks(values).tolist()))
