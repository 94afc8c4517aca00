"""The reward model (chapter 4): a score for which preferred answers come out higher.

    L = - mean log sigmoid( r(x, chosen) - r(x, rejected) )        Bradley and Terry 1952

The score is a sequence classifier's single output, read at the answer's last token.
"""

from __future__ import annotations

import time
from itertools import takewhile

import torch
from torch import Tensor

from chatlib.data import collate, shop, sources, template
from chatlib.data.schema import Preference
from chatlib.maths.preference import bayes_accuracy, pairwise_accuracy, pairwise_loss
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import RewardConfig
from chatlib.train import engine, models, rollout
from chatlib.train.models import TokenScorer
from chatlib.train.throughput import Size, forward_flops, rates, training_flops

Pair = tuple[list[int], list[int]]  # token ids of prompt + chosen and prompt + rejected


def train(config: RewardConfig, recorder: Recorder) -> dict:
    """Train the score on annotated pairs; returns the manifest's summary."""
    device = engine.start(config, recorder)
    recorder.beat(0, "read the data")
    data = sources.load(config)
    tokenizer = models.load_tokenizer(config.model)
    model = models.load_scorer(config.model, tokenizer)
    if config.disable_dropout:
        models.disable_dropout(model)
    limit = models.longest(model, config.max_seq_len)
    pairs, _, report = encode(tokenizer, data.train, limit, recorder)
    held_out, held_out_records, lost = encode(tokenizer, data.held_out, limit, recorder)
    report += [f"held out: {line}" for line in lost]
    recorder.tell_data([*data.report, *report])

    size = models.size_of(model)
    models.adapt(model, config, "SEQ_CLS", recorder)
    net = engine.initialize(
        config, TokenScorer(model), config.learning_rate, config.steps, "model", recorder
    )
    lengths = [len(row) for row in side_by_side(pairs)[0]]
    batches = collate.Batches(lengths, config.batch_size, config.seed, report)
    first, state = engine.restore({"model": net}, recorder)
    tokens, loss, began = state.get("tokens", 0), state.get("loss"), time.perf_counter()
    work = torch.zeros(3, dtype=torch.float64)  # samples, tokens, FLOPs since this launch began

    for step in range(first, config.steps):
        recorder.beat(step, "train")
        places = batches.at(step)
        batch = [pairs[i] for i in places]
        figures = torch.zeros(3, device=device)
        own = collate.shard(batch, recorder.rank, recorder.world)
        for i in range(0, len(own), config.micro_batch):
            chosen, rejected = score_pairs(net, own[i : i + config.micro_batch], tokenizer, device)
            share = len(chosen) / len(batch)  # of the whole step's pairs
            loss = pairwise_loss(chosen, rejected) * share
            engine.backward(net, loss)
            net.step()
            margin = (chosen - rejected).detach().mean()
            correct = pairwise_accuracy(chosen.detach(), rejected.detach())
            figures += torch.stack([loss.detach(), correct * share, margin * share])

        read = sum(len(chosen) + len(rejected) for chosen, rejected in batch)
        tokens, done = tokens + read, step + 1
        work += torch.tensor([len(batch), read, flops(config, size, [lengths[i] for i in places])])
        loss, accuracy, margin = engine.sum_over_ranks(figures).tolist()
        engine.log(
            net,
            recorder,
            done,
            loss=loss,
            accuracy=accuracy,
            margin=margin,
            learning_rate=net.get_lr()[0],
            tokens=tokens,
            **rates(*work.tolist(), time.perf_counter() - began, recorder.world),
        )
        if config.eval_every and done % config.eval_every == 0 and held_out:
            chosen, rejected = evaluate(net, held_out, tokenizer, recorder, device)
            accuracy = pairwise_accuracy(chosen, rejected)
            engine.log(net, recorder, done, held_out_accuracy=accuracy)
        if recorder.saves_at(done, config.save_every):
            engine.save_checkpoint(
                {"model": net}, config, recorder, done, {"tokens": tokens, "loss": loss}
            )

    seconds = time.perf_counter() - began
    recorder.beat(config.steps, "evaluate")
    summary = {
        "examples": len(pairs),
        "tokens": tokens,
        "train_seconds": seconds,
        **rates(*work.tolist(), seconds, recorder.world),
        "loss": loss,
        "data_report": [*data.report, *report],
    }
    if held_out:
        chosen, rejected = evaluate(net, held_out, tokenizer, recorder, device)
        summary |= held_out_figures(chosen, rejected, held_out_records)
    recorder.beat(config.steps, "normalise")
    summary |= normalise(net, config, tokenizer, data, recorder, device)
    recorder.beat(config.steps, "save")
    engine.save_model(net, tokenizer, recorder.directory / "model")
    return summary


def encode(tokenizer, records: list[Preference], limit: int, recorder: Recorder):
    """(pairs, their records, report): each rank encodes a share; what does not fit is counted.

    A pair whose prompt fills the context is left out; a longer answer is cut at its end.
    """
    own = [records[i] for i in collate.shard(range(len(records)), recorder.rank, recorder.world)]
    prompts = [r.prompt for r in own]
    opened = template.encode_prompts(tokenizer, prompts)
    answers = [
        template.encode_answers(tokenizer, prompts, [getattr(r, side) for r in own])
        for side in ("chosen", "rejected")
    ]
    whole = engine.gather([(p, p + a, p + b) for p, a, b in zip(opened, *answers)])
    fits = [len(p) < limit and a[:limit] != b[:limit] for p, a, b in whole]
    pairs = [(a[:limit], b[:limit]) for (_, a, b), fit in zip(whole, fits) if fit]
    report = []
    if cut := sum(max(len(a), len(b)) > limit for _, a, b in whole):
        report.append(f"{cut} of {len(whole)} pairs are longer than {limit} tokens and were cut")
    if lost := len(whole) - len(pairs):
        report.append(
            f"{lost} of {len(whole)} pairs left out: nothing to compare in {limit} tokens"
        )
    return pairs, [record for record, fit in zip(records, fits) if fit], report


def flops(config: RewardConfig, size: Size, lengths: list[int]) -> float:
    """FLOPs of an optimizer step on pairs that stand side by side, in rows of these lengths."""
    return training_flops(forward_flops(size, lengths, 2 * len(lengths)), config)


def score_pairs(net, pairs: list[Pair], tokenizer, device) -> tuple[Tensor, Tensor]:
    """Scores (n,) of the chosen and of the rejected answers, each prompt read only once.

    The same figures as `score` of either answer alone: what stands in a row is `side_by_side`,
    and the attention mask lets no answer see the other. A model that counts positions itself
    (its forward takes none) reads every answer after a prompt of its own.
    """
    if not getattr(net, "module", net).takes_positions:
        scores = score(net, [row for pair in pairs for row in pair], tokenizer, device)
        return scores[::2], scores[1::2]
    rows, positions, parts = side_by_side(pairs)
    ids, valid = collate.pad(rows, tokenizer.pad_token_id)
    part, place = collate.pad(parts, 2)[0], collate.pad(positions, 0)[0]
    seen = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    last = last_token(valid) | last_token((part == 1).long())
    scores = net(*collate.place(device, ids, last, place, seen.tril())).view(-1, 2)
    return scores[:, 0], scores[:, 1]


def side_by_side(pairs: list[Pair]) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """(ids, positions, parts): each pair as one row, what both begin with written once.

    Part 0 is the common beginning, 1 the rest of the chosen, 2 the rest of the rejected answer;
    both rests continue the positions of part 0. Each keeps its last token, where it is scored.
    """
    rows, positions, parts = [], [], []
    for chosen, rejected in pairs:
        alike = takewhile(lambda two: two[0] == two[1], zip(chosen[:-1], rejected[:-1]))
        same = len(list(alike))
        rows.append(chosen + rejected[same:])
        positions.append([*range(len(chosen)), *range(same, len(rejected))])
        parts.append([0] * same + [1] * (len(chosen) - same) + [2] * (len(rejected) - same))
    return rows, positions, parts


def score(net, rows: list[list[int]], tokenizer, device) -> Tensor:
    """One score per row of token ids, read at its last token whatever stands after it. (n,)"""
    ids, mask = collate.place(device, *collate.pad(rows, tokenizer.pad_token_id))
    return net(ids, last_token(mask))


def last_token(mask: Tensor) -> Tensor:
    """1 at each row's last valid token. (batch, time) to (batch, time)."""
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return mask * (1 - following)


@torch.no_grad()
def evaluate(net, pairs: list[Pair], tokenizer, recorder: Recorder, device):
    """Scores of all chosen and all rejected answers, in the pairs' order, on every rank."""
    net.eval()
    own = collate.shard(pairs, recorder.rank, recorder.world)
    own += pairs[:1] * (-(-len(pairs) // recorder.world) - len(own))  # stage 3: equal work per rank
    out: list[tuple[float, float]] = []
    for i in range(0, len(own), 64):
        recorder.beat(recorder.state["step"], "evaluate")  # slow is not stuck
        out += zip(*(s.tolist() for s in score_pairs(net, own[i : i + 64], tokenizer, device)))
    net.train()
    scores = torch.tensor(engine.gather(out)[: len(pairs)])
    return scores[:, 0], scores[:, 1]


def held_out_figures(chosen: Tensor, rejected: Tensor, records: list[Preference]) -> dict:
    """Accuracy on pairs not trained on; with a known judge, the best accuracy there could be."""
    figures = {"held_out_accuracy": pairwise_accuracy(chosen, rejected).item()}
    if all("gold" in r.meta for r in records):
        gold = torch.tensor([r.meta["gold"] for r in records]).T
        bayes = bayes_accuracy(*gold, shop.TEMPERATURE).item()
        figures["bayes_accuracy"] = bayes
        figures["chance_to_bayes"] = (figures["held_out_accuracy"] - 0.5) / (bayes - 0.5)
    return figures


@torch.no_grad()
def normalise(net, config: RewardConfig, tokenizer, data, recorder: Recorder, device) -> dict:
    """Give the score mean 0 and standard deviation 1 over answers of the model to be tuned.

    The offset of a Bradley-Terry score is arbitrary and its scale is the annotators'; fixed here,
    a KL coefficient means the same for every reward model. Both are stored in the model's
    configuration as ``score_mean`` and ``score_std``, which `TokenScorer` applies. Prompts that
    leave no room for an answer are passed over; ``normalised_on`` counts the answers.
    """
    policy = models.load_policy(config.model, tokenizer).to(device).eval()
    records = (data.held_out + data.train)[: config.reference_samples]
    prompts = template.encode_prompts(tokenizer, [r.prompt for r in records])
    limit = models.longest(policy, config.max_seq_len)
    prompts = [p for p in prompts if len(p) < limit]
    prompts = prompts[: len(prompts) // recorder.world * recorder.world]
    if len(prompts) < 2:
        recorder.say(
            f"score left as it is: no two prompts within {limit} tokens to normalise it on"
        )
        return {}
    torch.manual_seed(config.seed + recorder.rank)
    scores: list[float] = []
    net.eval()
    own = collate.shard(prompts, recorder.rank, recorder.world)
    for i in range(0, len(own), 64):
        recorder.beat(recorder.state["step"], "normalise")
        part = own[i : i + 64]
        room = min(64, limit - max(map(len, part)))
        answers = rollout.sample(policy, part, room, tokenizer.eos_token_id, tokenizer.pad_token_id)
        rows = [p + a for p, a in zip(part, answers)]
        scores += score(net, rows, tokenizer, device).tolist()
    net.train()
    every = torch.tensor(engine.gather(scores))
    mean, std = every.mean().item(), every.std().clamp(min=1e-6).item()
    net.module.model.config.score_mean, net.module.model.config.score_std = mean, std
    return {"score_mean": mean, "score_std": std, "normalised_on": len(every)}
