"""The reward model (chapter 4): a score for which preferred answers come out higher.

    L = - mean log sigmoid( r(x, chosen) - r(x, rejected) )        Bradley and Terry 1952

The score is a sequence classifier's single output, read at the answer's last token.
"""

from __future__ import annotations

from itertools import takewhile
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatlib.data import collate, judges, template
from chatlib.data.judges import Judge
from chatlib.data.schema import Preference
from chatlib.data.sources import Data
from chatlib.maths.preference import bayes_accuracy, pairwise_accuracy, pairwise_loss
from chatlib.runs.recorder import Recorder
from chatlib.settings.deepspeed import zero_stage
from chatlib.settings.stages import RewardConfig
from chatlib.train import engine, models, packing, rollout
from chatlib.train.models import AnswerLM, TextScorer, TokenScorer
from chatlib.train.packing import Rows
from chatlib.train.records import load_data
from chatlib.train.sft import due, in_parts
from chatlib.train.throughput import Meter, Size, forward_flops, training_flops

Pair = tuple[list[int], list[int]]  # token ids of prompt + chosen and prompt + rejected


def train(config: RewardConfig, recorder: Recorder) -> dict:
    """Train the score on annotated pairs; returns the manifest's summary."""
    device = engine.start(config, recorder)
    recorder.beat(0, "read the data")
    data = load_data(config, recorder)
    tokenizer = models.load_tokenizer(config.model)
    model = models.load_scorer(config.model, tokenizer, engine.dtype_of(config, device))
    limit = models.max_length(model, config.max_seq_len)
    pairs, _, left_out = encode(tokenizer, data.train, limit, recorder)
    held_out, held_out_records, lost = encode(tokenizer, data.held_out, limit, recorder)
    left_out += [f"held out: {line}" for line in lost]
    report = [*data.report, *left_out]
    recorder.tell_data(report)

    size = models.size_of(model)
    net = trained(config, model, recorder)
    lengths = [len(row) for row in side_by_side(pairs)[0]]
    batches = collate.Batches(lengths, config.batch_size, config.seed, left_out)
    first, state = engine.restore({"model": net}, recorder)
    tokens, loss, meter = state.get("tokens", 0), state.get("loss"), Meter(recorder.world)

    for step in range(first, config.steps):
        recorder.beat(step, "train")
        index = batches.at(step)
        batch, rate = [pairs[i] for i in index], net.get_lr()[0]
        figures = learn(net, batch, tokenizer, config, recorder, device)
        read, done = sum(len(chosen) + len(rejected) for chosen, rejected in batch), step + 1
        tokens, loss = tokens + read, figures["loss"]
        meter.add(len(batch), read, flops(config, size, [lengths[i] for i in index]))
        figures |= {"learning_rate": rate, "tokens": tokens}
        engine.log(net, recorder, done, **figures, **meter.rates())
        if due(config.eval_every, done) and held_out:
            found = pairwise_accuracy(*evaluate(net, held_out, tokenizer, config, recorder, device))
            engine.log(net, recorder, done, held_out_accuracy=found.item())
        if recorder.saves_at(done, config.save_every):
            state = {"tokens": tokens, "loss": loss}
            engine.save_checkpoint({"model": net}, config, recorder, done, state)

    seconds = meter.seconds
    summary = {"examples": len(pairs), "tokens": tokens, "train_seconds": seconds}
    summary |= {**meter.rates(seconds), "loss": loss, "data_report": report}
    recorder.beat(config.steps, "save")  # first: what follows may fail, and weights would be lost
    engine.save_model(net, tokenizer, recorder.directory / "model")
    recorder.beat(config.steps, "normalise")
    summary |= normalise(net, config, tokenizer, data, recorder, device)
    engine.save_config(net, recorder.directory / "model")
    recorder.beat(config.steps, "evaluate")
    if held_out:
        scores = evaluate(net, held_out, tokenizer, config, recorder, device)
        summary |= held_out_figures(*scores, held_out_records, judges.of(config.sources))
    return summary


def learn(
    net: engine.Engine,
    batch: list[Pair],
    tokenizer: PreTrainedTokenizerBase,
    config: RewardConfig,
    recorder: Recorder,
    device: torch.device,
) -> dict[str, float]:
    """One optimizer step on a batch, of which every rank takes its share.

    Returns means over the batch's pairs: ``loss`` (nats), ``accuracy`` and ``margin``.
    """
    sums = torch.zeros(3, device=device)
    own = collate.shard(batch, recorder.rank, recorder.world)
    for i in range(0, len(own), config.micro_batch):
        chosen, rejected = score_pairs(net, own[i : i + config.micro_batch], tokenizer, device)
        loss = pairwise_loss(chosen, rejected, denominator=len(batch))
        engine.backward(net, loss)
        net.step()
        share = len(chosen) / len(batch)
        margin = (chosen - rejected).detach().mean()
        correct = pairwise_accuracy(chosen.detach(), rejected.detach())
        sums += torch.stack([loss.detach(), correct * share, margin * share])
    return dict(zip(("loss", "accuracy", "margin"), engine.sum_over_ranks(sums).tolist()))


# ------------------------------------------------------------------------ its parts
def trained(config: RewardConfig, model: PreTrainedModel, recorder: Recorder) -> engine.Engine:
    """The engine around a classifier, made ready as the settings ask."""
    if config.disable_dropout:
        models.disable_dropout(model)
    models.adapt(model, config, "SEQ_CLS", recorder)
    rate, steps = config.learning_rate, config.steps
    return engine.initialize(config, TokenScorer(model), rate, steps, "model", recorder)


def encode(
    tokenizer: PreTrainedTokenizerBase, records: list[Preference], limit: int, recorder: Recorder
) -> tuple[list[Pair], list[Preference], list[str]]:
    """(pairs, their records, report), as of `encode_apart`, each answer after its prompt."""
    apart, kept, report = encode_apart(tokenizer, records, limit, recorder)
    return [(prompt + a, prompt + b) for prompt, a, b in apart], kept, report


def encode_apart(
    tokenizer: PreTrainedTokenizerBase, records: list[Preference], limit: int, recorder: Recorder
) -> tuple[list[tuple[list[int], list[int], list[int]]], list[Preference], list[str]]:
    """(prompt, chosen and rejected answer of each pair; their records; report).

    Each rank encodes a share; what does not fit is counted. A pair whose prompt fills the context
    is left out; a longer answer is cut at its end.
    """
    own = [records[i] for i in collate.shard(range(len(records)), recorder.rank, recorder.world)]
    prompts = [r.prompt for r in own]
    opened = template.encode_prompts(tokenizer, prompts)
    answers = [
        template.encode_answers(tokenizer, prompts, [getattr(r, side) for r in own])
        for side in ("chosen", "rejected")
    ]
    whole = engine.gather(list(zip(opened, *answers)))
    short = [(p, a[: limit - len(p)], b[: limit - len(p)]) for p, a, b in whole]
    fits = [len(p) < limit and a != b for p, a, b in short]
    pairs = [pair for pair, fit in zip(short, fits) if fit]
    report = []
    if cut := sum(len(p) + max(len(a), len(b)) > limit for p, a, b in whole):
        report.append(f"{cut} of {len(whole)} pairs are longer than {limit} tokens and were cut")
    if lost := len(whole) - len(pairs):
        report.append(
            f"{lost} of {len(whole)} pairs left out: nothing to compare in {limit} tokens"
        )
    return pairs, [record for record, fit in zip(records, fits) if fit], report


def flops(config: RewardConfig, size: Size, lengths: list[int]) -> float:
    """FLOPs of an optimizer step on pairs that stand side by side, in rows of these lengths."""
    return training_flops(forward_flops(size, lengths, 2 * len(lengths)), config, size)


def score_pairs(
    net: nn.Module, pairs: list[Pair], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scores (n,) of the chosen and of the rejected answers, each prompt read only once.

    The same figures as `score` of either answer alone (`packing`). A model that counts positions
    itself (its forward takes none) reads every answer after a prompt of its own.
    """
    if not cast(TokenScorer, getattr(net, "module", net)).takes_positions:
        scores = score(net, [row for pair in pairs for row in pair], tokenizer, device)
        return scores[::2], scores[1::2]
    scores = score_groups(net, *side_by_side(pairs), tokenizer, device).view(-1, 2)
    return scores[:, 0], scores[:, 1]


def side_by_side(pairs: list[Pair]) -> tuple[Rows, Rows, Rows]:
    """(ids, positions, parts): each pair as one row, what both begin with written once.

    Each answer keeps its last token, where it is scored.
    """
    alike = [takewhile(lambda two: two[0] == two[1], zip(a[:-1], b[:-1])) for a, b in pairs]
    return packing.side_by_side(pairs, [len(list(same)) for same in alike])


def score_groups(
    net: nn.Module,
    rows: Rows,
    positions: Rows,
    parts: Rows,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | str,
) -> Tensor:
    """One score for each text of `packing.side_by_side`'s rows, group by group. (texts,)"""
    ids, _ = collate.pad(rows, tokenizer.pad_token_id)
    position, seen = collate.pad(positions, 0)[0], packing.attended(parts)
    return net(*collate.to_device(device, ids, packing.ends(parts), position, seen))


def score(
    net: nn.Module,
    rows: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | str,
) -> Tensor:
    """One score per row of token ids, read at its last token whatever stands after it. (n,)"""
    ids, mask = collate.to_device(device, *collate.pad(rows, tokenizer.pad_token_id))
    return net(ids, last_token(mask))


def last_token(mask: Tensor) -> Tensor:
    """1 at each row's last valid token. (batch, time) to (batch, time)."""
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return mask * (1 - following)


@torch.no_grad()
def score_texts(
    net: nn.Module,
    prompts: list[list[dict]],
    answers: list[str],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | str,
    rows: int = 12,
) -> tuple[Tensor, Tensor]:
    """(scores (n,), whether a text was cut (n,)) of a reward model with a tokenizer of its own.

    ``net`` is a `TextScorer`, ``prompts`` are lists of messages. With a chat template the
    tokenizer writes the whole dialogue; without one prompt and answer are a pair of texts, as
    encoders take them. What exceeds the model's length is cut at its beginning, and told.
    """
    scores: list[Tensor] = []
    cut: list[bool] = []
    whole = cast(TextScorer, getattr(net, "module", net))
    limit = min(tokenizer.model_max_length, whole.max_length)
    for i in range(0, len(answers), rows):
        texts = as_read(tokenizer, prompts[i : i + rows], answers[i : i + rows])
        own = tokenizer.chat_template is None  # who writes the special tokens
        lengths = [len(ids) for ids in tokenizer(*texts, add_special_tokens=own)["input_ids"]]
        batch = tokenizer(
            *texts,
            add_special_tokens=own,
            truncation=True,
            max_length=limit,
            padding=True,
            return_tensors="pt",
        )
        scores.append(net(**batch.to(device)))
        cut += [length > limit for length in lengths]
    return torch.cat(scores), torch.tensor(cut, device=device)


def as_read(
    tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict]], answers: list[str]
) -> list[list[str]]:
    """The texts of answers after their prompts: [dialogues], or [prompts, answers] as pairs."""
    if tokenizer.chat_template is None:
        return [["\n".join(m["content"] for m in prompt) for prompt in prompts], answers]
    turns = [[*p, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers)]
    return [template.render(tokenizer, turns)]


@torch.no_grad()
def evaluate(
    net: nn.Module,
    pairs: list[Pair],
    tokenizer: PreTrainedTokenizerBase,
    config: RewardConfig,
    recorder: Recorder,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Scores of all chosen and all rejected answers, in the pairs' order, on every rank."""
    net.eval()
    own, _ = collate.equal_shard(pairs, recorder.rank, recorder.world)
    out: list[tuple[float, float]] = []
    for _, part in in_parts(own, config, 64, recorder):
        out += zip(*(s.tolist() for s in score_pairs(net, part, tokenizer, device)))
    net.train()
    scores = torch.tensor(engine.gather(out)[: len(pairs)])
    return scores[:, 0], scores[:, 1]


def held_out_figures(
    chosen: Tensor, rejected: Tensor, records: list[Preference], judged_by: list[Judge]
) -> dict[str, float]:
    """Accuracy on pairs not trained on; with a known judge, the best accuracy there could be."""
    figures = {"held_out_accuracy": pairwise_accuracy(chosen, rejected).item()}
    if noise := judges.noise(judged_by, records):
        gold = torch.tensor([r.meta["gold"] for r in records]).T
        bayes = bayes_accuracy(gold[0], gold[1], noise).item()
        figures["bayes_accuracy"] = bayes
        figures["chance_to_bayes"] = (figures["held_out_accuracy"] - 0.5) / (bayes - 0.5)
    return figures


@torch.no_grad()
def normalise(
    net: engine.Engine,
    config: RewardConfig,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    recorder: Recorder,
    device: torch.device,
) -> dict[str, float]:
    """Give the score mean 0 and standard deviation 1 over answers of the model to be tuned.

    The offset of a Bradley-Terry score is arbitrary and its scale is the annotators'; fixed here,
    a KL coefficient means the same for every reward model. Both are stored in the model's
    configuration as ``score_mean`` and ``score_std``, which `TokenScorer` applies. Prompts that
    leave no room for an answer are passed over; ``normalised_on`` counts the answers.
    """
    records = (data.held_out + data.train)[: config.reference_samples]
    prompts = template.encode_prompts(tokenizer, [r.prompt for r in records])
    limit = models.max_length(net.module.model, config.max_seq_len)
    prompts = [p for p in prompts if len(p) < limit]
    if len(prompts) < 2:
        recorder.say(
            f"score left as it is: no two prompts within {limit} tokens to normalise it on"
        )
        return {}
    own, _ = collate.equal_shard(prompts, recorder.rank, recorder.world)
    net.eval()
    scores = reference_scores(net, own, limit, config, tokenizer, recorder, device)
    net.train()
    every = torch.tensor(engine.gather(scores)[: len(prompts)])
    mean, std = every.mean().item(), every.std().clamp(min=1e-6).item()
    net.module.model.config.score_mean, net.module.model.config.score_std = mean, std
    return {"score_mean": mean, "score_std": std, "normalised_on": len(every)}


def reference_scores(
    net: nn.Module,
    prompts: list[list[int]],
    limit: int,
    config: RewardConfig,
    tokenizer: PreTrainedTokenizerBase,
    recorder: Recorder,
    device: torch.device,
) -> list[float]:
    """Scores of the policy's answers to a rank's prompts, raw.

    The policy is kept as PPO keeps its reference: in the number format of training and, at ZeRO
    stage 3, shared out over the ranks.
    """
    stage, dtype = zero_stage(config), engine.dtype_of(config, device)
    frozen = AnswerLM(models.load_policy(config.model, tokenizer, dtype))
    policy = engine.frozen(frozen, device, stage)
    torch.manual_seed(config.seed + recorder.rank)
    stop, pad, scores = tokenizer.eos_token_id, tokenizer.pad_token_id, []
    with engine.whole(policy):
        for i in range(0, len(prompts), 64):
            recorder.beat(recorder.state["step"], "normalise")
            part = prompts[i : i + 64]
            room = min(config.max_answer_tokens, limit - max(map(len, part)))
            answers = rollout.sample(frozen.model, part, room, stop, pad)
            rows = [p + a for p, a in zip(part, answers)]
            scores += score(net, rows, tokenizer, device).tolist()
    return scores
