"""Proximal policy optimisation of a chat policy (chapter 5): sample, score, learn, repeat.

Row by row of an answer y_1 ... y_T to a prompt x:

    state  s_t = (x, y_1 .. y_{t-1})     action  y_t     value  V(s_t), read at the token before y_t
    reward r_t = -beta KL_t + [t = T] score(x, y)         advantage  GAE(r, V)

Sequences are stored unpadded and padded on the right for each pass; all (batch, time) tensors
below are aligned with the answers, whose first token stands in column 0.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from chatlib.data import collate, shop, sources, template
from chatlib.data.schema import Dialogue, Record
from chatlib.maths import policy as maths
from chatlib.maths.likelihood import whiten
from chatlib.runs.recorder import Recorder
from chatlib.settings.deepspeed import zero_stage
from chatlib.settings.stages import PPOConfig
from chatlib.train import engine, models, reward, rollout, sft
from chatlib.train.models import AnswerLM, TokenScorer
from chatlib.train.throughput import Size, forward_flops, rates, training_flops

# Rows of a forward pass, at most. Prompts are drawn at random, so a batch's lengths differ widely:
# of the book's minibatches of 16 rows 31 % are padding, and 16 % when eight of similar length go
# together. Of 32 rows on two threads, groups of 11 were fastest (8: 1.11, 16: 1.05 times as long).
ROWS_TOGETHER = 12


@dataclass
class Rollout:
    """Answers drawn from the policy and all that is known of them; nothing here has a gradient.

    ``rows`` are prompt + answer, ``answers`` the answers alone. The tensors are (batch, time),
    0 on padding, but for ``score`` (the reward model's) and ``ended`` (batch,).
    """

    rows: list[list[int]]
    answers: list[list[int]]
    mask: Tensor
    old_logp: Tensor
    ref_logp: Tensor
    values: Tensor
    entropy: Tensor
    score: Tensor
    ended: Tensor
    advantages: Tensor | None = None
    returns: Tensor | None = None

    def take(self, index: list[int]) -> Rollout:
        """The rollout of some of the rows."""
        picked = {}
        for f in fields(self):
            value = getattr(self, f.name)
            picked[f.name] = (
                value[index] if isinstance(value, Tensor) else [value[i] for i in index]
            )
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
    ids, _ = collate.pad(r.rows, pad)
    marked = answer_mask(r.rows, r.answers)
    logp, entropy = net(*collate.place(r.mask.device, ids, marked), temperature, with_entropy)
    return to_grid(logp, r.mask), None if entropy is None else to_grid(entropy, r.mask)


def state_values(net: nn.Module, r: Rollout, pad: int) -> Tensor:
    """V(s_t) for every answer token t, read one place before it. (batch, time)"""
    ids, _ = collate.pad(r.rows, pad)
    before = torch.zeros_like(ids)
    before[:, :-1] = answer_mask(r.rows, r.answers)[:, 1:]
    return to_grid(net(*collate.place(r.mask.device, ids, before)), r.mask)


# ------------------------------------------------------------------------ one rollout
def generate(config: PPOConfig, actor, prompts: list[list[int]], tokenizer) -> list[list[int]]:
    """One draw from the policy for each prompt, in ``generation_batches`` parts."""
    stop, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    size, answers = len(prompts) // config.generation_batches, []
    actor.eval()
    limits = config.max_answer_tokens, stop, pad, config.temperature
    with engine.whole(actor):
        for i in range(0, len(prompts), size):
            answers += rollout.sample(actor.module.model, prompts[i : i + size], *limits)
    actor.train()
    return answers


@torch.no_grad()
def examine(config, prompts, answers, actor, critic, reference, scorer, tokenizer) -> Rollout:
    """The rollout of given answers: one pass through each of the four models.

    The old log-probabilities come from the forward pass that is trained, not from the sampler:
    the ratio of the first minibatch is then exactly 1.
    """
    pad, device = tokenizer.pad_token_id, next(actor.parameters()).device
    mask = collate.pad([[1] * len(a) for a in answers], 0)[0].to(device)
    none, ended = (
        torch.zeros_like(mask, dtype=torch.float32),
        torch.tensor([a[-1] == tokenizer.eos_token_id for a in answers], device=device),
    )
    rows = [p + a for p, a in zip(prompts, answers)]
    r = Rollout(rows, answers, mask, none, none, none, none, none[:, 0], ended)
    r.old_logp, r.entropy = log_probs(actor, r, pad, config.temperature, with_entropy=True)
    r.ref_logp, _ = log_probs(reference, r, pad, config.temperature)
    r.values = state_values(critic, r, pad)
    r.score = reward.score(scorer, rows, tokenizer, device)
    return r


def add_advantages(config: PPOConfig, r: Rollout, beta: float) -> None:
    """Rewards, advantages and returns. Scores are clipped first, so the KL never is.

    The returns are formed before whitening, which only the advantages get: the critic learns
    the rewards' own scale. Whitening is over all ranks' tokens.
    """
    kl = maths.kl_estimate(r.old_logp, r.ref_logp, config.kl_estimator)
    score = maths.final_score(
        r.score, r.ended, config.missing_eos_penalty, config.clip_reward_value
    )
    rewards = maths.shaped_rewards(score, kl, r.mask, beta if config.kl_in == "reward" else 0.0)
    if config.whiten_rewards:
        rewards = whiten(rewards, r.mask, shift_mean=False, reduce=engine.sum_over_ranks)
    advantages, r.returns = maths.gae(rewards, r.values, r.mask, config.gamma, config.lam)
    r.advantages = whiten(advantages, r.mask, reduce=engine.sum_over_ranks)


# ------------------------------------------------------------------------ one update
def denominator(config: PPOConfig, r: Rollout) -> Tensor:
    """By what a minibatch's summed loss is divided: over all ranks and micro-batches."""
    count = {
        "token": r.mask.sum(),
        "sequence": len(r.rows),
        "constant": len(r.rows) * config.max_answer_tokens,
    }[config.loss_aggregation]
    return engine.sum_over_ranks(torch.as_tensor(count, dtype=torch.float32)).to(r.mask.device)


def actor_loss(config: PPOConfig, actor, part: Rollout, pad: int, count: Tensor, beta: float):
    """(loss, statistics) of the policy on a micro-batch; a term of the minibatch's sum."""
    how = (config.loss_aggregation, count)
    bonus = config.entropy_coefficient
    logp, entropy = log_probs(actor, part, pad, config.temperature, with_entropy=bonus > 0)
    loss, stats = maths.policy_loss(
        logp, part.old_logp, part.advantages, part.mask, config.cliprange, *how
    )
    if config.kl_in == "loss":
        kl = maths.kl_estimate(logp, part.ref_logp, config.kl_estimator)
        loss = loss + beta * maths.aggregate(kl, part.mask, *how)
    if bonus:
        loss = loss - bonus * maths.aggregate(entropy, part.mask, *how)
    return loss, stats


def update(config: PPOConfig, r: Rollout, actor, critic, pad: int, beta: float, ptx=None):
    """One optimizer step of actor and critic on a minibatch.

    ``ptx`` gives the loss of the pretraining mixture, a term of the same step. Returns
    (sums over the tokens: 1, clipped, approximate KL, squared value error; largest |log ratio|).
    """
    count, size = denominator(config, r), len(r.rows) // config.gradient_accumulation_steps
    sums, largest = torch.zeros(4), torch.zeros(())
    for start in range(0, len(r.rows), size):
        part = r.take(list(range(start, start + size)))
        loss, stats = actor_loss(config, actor, part, pad, count, beta)
        engine.backward(actor, loss + ptx() if ptx else loss)
        actor.step()
        values = state_values(critic, part, pad)
        v_loss, v_stats = maths.value_loss(
            values,
            part.values,
            part.returns,
            part.mask,
            config.cliprange_value,
            config.loss_aggregation,
            count,
        )
        engine.backward(critic, v_loss)
        critic.step()
        tokens = stats["tokens"].float()
        means = [stats["clip_fraction"], stats["approx_kl"], v_stats["error"]]
        sums += torch.stack([tokens, *(m * tokens for m in means)]).cpu()
        largest = torch.maximum(largest, stats["max_log_ratio"].detach().cpu())
    return sums, largest


# ------------------------------------------------------------------------ the loop
def train(config: PPOConfig, recorder: Recorder) -> dict:
    """Tune the policy against the reward model; returns the manifest's summary."""
    device = engine.start(config, recorder)
    recorder.beat(0, "read the data")
    data = sources.load(config)
    tokenizer = models.load_tokenizer(config.model)
    pad = tokenizer.pad_token_id
    recorder.beat(0, "load four models")
    actor, critic, reference, scorer = four_models(config, tokenizer, device, recorder)
    longest = models.longest(actor.module.model, config.max_seq_len)
    limit = longest - config.max_answer_tokens
    if limit < 1:
        raise ValueError(
            f"max_answer_tokens {config.max_answer_tokens} leaves no room for a prompt in "
            f"{longest} tokens; lower it, or raise max_seq_len as far as the model's context"
        )
    prompts, records, report = encode(tokenizer, data.train, limit, recorder)
    recorder.tell_data([*data.report, *report])

    engines = {"actor": actor, "critic": critic}
    ema = Ema(config.ema_decay, actor.module.model) if config.enable_ema else None
    size = config.batch_size * config.generation_batches
    # Equal lengths: a batch of similar prompts would hold few intents, and its mean tell little.
    batches = collate.Batches([1] * len(prompts), size, config.seed, report)
    torch.manual_seed(config.seed * 1000 + recorder.rank)  # every rank draws its own samples
    first, state = engine.restore(engines, recorder)
    beta, tokens = state.get("beta", config.kl_ctl), state.get("tokens", 0)
    if ema and "ema" in state:
        ema.average = state["ema"]
    sizes = [models.size_of(getattr(net, "module", net).model) for net in (reference, scorer)]
    spent, tokens_before = {"generate": 0.0, "score": 0.0, "learn": 0.0}, tokens
    work = torch.zeros(len(spent), dtype=torch.float64)  # FLOPs of the same three, all ranks'

    for step in range(first, config.steps):
        recorder.beat(step, "generate")
        clock = [time.perf_counter()]
        own = collate.shard(batches.at(step), recorder.rank, recorder.world)
        asked = [prompts[i] for i in own]
        answers = generate(config, actor, asked, tokenizer)
        clock.append(time.perf_counter())

        recorder.beat(step, "score")
        r = examine(config, asked, answers, actor, critic, reference, scorer, tokenizer)
        add_advantages(config, r, beta)
        clock.append(time.perf_counter())

        recorder.beat(step, "learn")
        sums, log_ratio = torch.zeros(4), None
        for _ in range(config.ppo_epochs):
            for index in minibatches(len(own), config):
                shown = [records[own[i]] for i in index]
                ptx = ptx_loss(config, actor, shown, tokenizer, longest, device)
                part_sums, largest = update(config, r.take(index), actor, critic, pad, beta, ptx)
                sums += part_sums
                log_ratio = largest if log_ratio is None else log_ratio
                if ema:
                    ema.update()
        clock.append(time.perf_counter())

        figures = describe(r, sums, [records[i] for i in own], tokenizer)
        tokens += int(figures.pop("rows_tokens"))
        for name, seconds in zip(spent, (b - a for a, b in itertools.pairwise(clock))):
            spent[name] += seconds
            figures[f"{name}_seconds"] = seconds
        done, work = step + 1, work + engine.sum_over_ranks(flops(config, *sizes, r))
        counts = (done - first) * size, tokens - tokens_before, work
        speed = throughput_of(*counts, spent, recorder.world)
        engine.log(
            actor,
            recorder,
            done,
            **figures,
            **speed,
            beta=beta,
            first_log_ratio=engine.max_over_ranks(log_ratio).item(),
            actor_learning_rate=actor.get_lr()[0],
            critic_learning_rate=critic.get_lr()[0],
            tokens=tokens,
        )
        if config.kl_target:
            beta = maths.adaptive_beta(
                beta, figures["kl"], config.kl_target, size, config.kl_horizon
            )
        if config.print_answers and done % config.print_answers == 0 and recorder.rank == 0:
            for i, text in zip(own[:3], template.decode(tokenizer, answers[:3])):
                recorder.say(f"{records[i].prompt[-1]['content']}\n  -> {text}")
        if recorder.saves_at(done, config.save_every):
            state = {"beta": beta, "tokens": tokens} | ({"ema": ema.average} if ema else {})
            engine.save_checkpoint(engines, config, recorder, done, state)

    recorder.beat(config.steps, "save")
    engine.save_model(actor, tokenizer, recorder.directory / "model")
    if ema:
        ema.save(tokenizer, recorder.directory / "model_ema")
    counts = (config.steps - first) * size, tokens - tokens_before, work
    return {
        "examples": len(prompts),
        "tokens": tokens,
        "train_seconds": sum(spent.values()),
        **throughput_of(*counts, spent, recorder.world),
        "beta": beta,
        "data_report": [*data.report, *report],
    }


# ------------------------------------------------------------------------ its parts
def four_models(config: PPOConfig, tokenizer, device, recorder: Recorder):
    """(actor engine, critic engine, frozen reference, frozen reward model), dropout off."""
    dtype = engine.dtype_of(config, device)
    actor = models.load_policy(config.model, tokenizer)
    critic = models.load_scorer(config.reward_model, tokenizer)
    if config.critic_init == "zero":  # V(s) = 0 at first: the first advantages are the rewards
        nn.init.zeros_(critic.score.weight)
        critic.config.score_mean, critic.config.score_std = 0.0, 1.0
    reference = models.load_policy(config.model, tokenizer, dtype)
    scorer = models.load_scorer(config.reward_model, tokenizer, dtype)
    for role, model, task in (("actor", actor, "CAUSAL_LM"), ("critic", critic, "SEQ_CLS")):
        models.adapt(model, config, task, recorder, role)
    for model in (actor, critic, reference, scorer):
        models.disable_dropout(model)  # that of the adapters, too
    total = config.steps * config.ppo_epochs * config.minibatches
    nets = [
        engine.initialize(config, module, rate, total, role, recorder)
        for module, rate, role in (
            (AnswerLM(actor, ROWS_TOGETHER), config.actor_learning_rate, "actor"),
            (TokenScorer(critic, ROWS_TOGETHER), config.critic_learning_rate, "critic"),
        )
    ]
    of_actor, of_critic = zero_stage(config, "actor"), zero_stage(config, "critic")
    offload = config.offload_reference_model
    return (
        *nets,
        engine.frozen(AnswerLM(reference, ROWS_TOGETHER), device, of_actor, offload),
        engine.frozen(TokenScorer(scorer, ROWS_TOGETHER), device, of_critic),
    )


def encode(tokenizer, records: list[Record], limit: int, recorder: Recorder):
    """(prompts' token ids, their records, report); a prompt that leaves no room is counted."""
    ids = template.encode_prompts(tokenizer, [r.prompt for r in records])
    fitting = [i for i, p in enumerate(ids) if len(p) <= limit]
    report = []
    if lost := len(ids) - len(fitting):
        report.append(f"{lost} of {len(ids)} prompts left out: longer than {limit} tokens")
    return [ids[i] for i in fitting], [records[i] for i in fitting], report


def flops(config: PPOConfig, policy: Size, value: Size, r: Rollout) -> Tensor:
    """FLOPs (3,) of this rank's iteration: generation, the four scoring passes, the updates.

    Generation computes with the cache what one forward pass does; PTX is not counted.
    """
    read, answer = [len(row) - 1 for row in r.rows], sum(map(len, r.answers))
    once = [forward_flops(size, read, answer) for size in (policy, value)]
    score = 2 * once[0] + once[1] + forward_flops(value, [len(row) for row in r.rows], len(r.rows))
    learn = sum(training_flops(f, config, role) for f, role in zip(once, ("actor", "critic")))
    return torch.tensor([once[0], score, config.ppo_epochs * learn], dtype=torch.float64)


def throughput_of(samples: int, tokens: int, work: Tensor, spent: dict, ranks: int) -> dict:
    """`rates` since this launch began, and those of generation and learning by themselves."""
    parts = dict(zip(spent, work.tolist()))
    tflops = {
        f"{name}_tflops": rates(samples, tokens, parts[name], spent[name], ranks)["tflops"]
        for name in ("generate", "learn")
    }
    seconds = sum(spent.values())
    share = {"generation_share": spent["generate"] / max(seconds, 1e-9)}
    return rates(samples, tokens, sum(parts.values()), seconds, ranks) | tflops | share


def minibatches(n: int, config: PPOConfig) -> list[list[int]]:
    """The rank's rows in random order, cut into minibatches."""
    order = torch.randperm(n).tolist()
    size = n // config.minibatches
    return [order[i * size : (i + 1) * size] for i in range(config.minibatches)]


def ptx_loss(config: PPOConfig, actor, records: list[Record], tokenizer, limit: int, device):
    """The pretraining mixture (Ouyang et al. 2022, equation 2): SFT's loss on demonstrations.

    Those are the minibatch's own records, cut to ``limit`` tokens.
    """
    if not config.unsup_coef:
        return None
    shown = [r if isinstance(r, Dialogue) else r.dialogue() for r in records]
    encoded = template.encode(tokenizer, [d.messages for d in shown])
    ids, mask = sft.tensors([e.cut(limit) for e in encoded], tokenizer.pad_token_id)
    total = engine.sum_over_ranks(mask.sum()) * config.gradient_accumulation_steps
    return lambda: -config.unsup_coef * actor(*collate.place(device, ids, mask))[0].sum() / total


class Ema:
    """Exponential moving average of a model's weights, kept on rank 0: a = d a + (1 - d) w."""

    def __init__(self, decay: float, model: nn.Module) -> None:
        self.decay, self.model = decay, model
        self.average = engine.gathered_state(model)

    def update(self) -> None:
        """Take in the present weights; a collective at ZeRO stage 3, so every rank calls it."""
        new: dict[int, Tensor] = {}  # tied weights stay one
        for name, weight in (state := engine.gathered_state(self.model)).items():
            if id(weight) not in new:
                new[id(weight)] = maths.ema_update(self.average[name], weight, self.decay)
        self.average = {name: new[id(weight)] for name, weight in state.items()}

    def save(self, tokenizer, directory) -> None:
        """Write the average as a model folder."""
        engine.save_state(self.average, self.model, tokenizer, directory)


def describe(r: Rollout, sums: Tensor, records: list[Record], tokenizer) -> dict[str, float]:
    """What one iteration looked like: means over all ranks' answers, or their tokens.

    ``gold`` and ``well_formed`` are means over the answers that the shop's judge can judge: of a
    blend, those to the shop's prompts.
    """
    m = totals(r, sums, records, tokenizer)
    answers, tokens, seen, judged = m["answers"], m["tokens"], max(m["seen"], 1.0), m["judged"]
    spread = maths.explained_variance(r.values, r.returns, r.mask, engine.sum_over_ranks)
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
    if judged:
        figures |= {"gold": m["gold"] / judged, "well_formed": m["well_formed"] / judged}
    return figures


def totals(r: Rollout, sums: Tensor, records: list[Record], tokenizer) -> dict[str, float]:
    """Sums over all ranks' answers; ``sums`` are those of the updates."""
    kl = (r.old_logp - r.ref_logp).masked_fill(r.mask == 0, 0.0)
    texts = zip(records, template.decode(tokenizer, r.answers))
    verdicts = [shop.judge(rec.meta, text) for rec, text in texts if "intent" in rec.meta]
    own = dict(zip(("seen", "clipped", "approx_kl", "value_error"), sums)) | {
        "answers": len(r.rows),
        "score": r.score.sum(),
        "kl": kl.sum(),
        "tokens": r.mask.sum(),
        "ended": r.ended.sum(),
        "entropy": (r.entropy * r.mask).sum(),
        "rows_tokens": sum(map(len, r.rows)),
        "judged": len(verdicts),
        "gold": sum(v.total for v in verdicts),
        "well_formed": sum(v.well_formed for v in verdicts),
    }
    values = torch.tensor([float(value) for value in own.values()], dtype=torch.float64)
    return dict(zip(own, engine.sum_over_ranks(values).tolist()))
