"""Supervised fine-tuning (chapter 3): maximise the log-likelihood of the answers.

    L = - 1/N  sum over dialogues, sum over answer tokens t of  log pi(y_t | what came before)

N is the number of answer tokens of the whole step, over all ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatlib.data import collate, template
from chatlib.data.schema import Dialogue
from chatlib.maths.likelihood import negative_log_likelihood
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import SFTConfig, StageConfig, TinyModel
from chatlib.train import engine, models, rollout
from chatlib.train.models import AnswerLM
from chatlib.train.records import load_data
from chatlib.train.throughput import Meter, Size, forward_flops, training_flops

T = TypeVar("T")
TOKENIZER_RECORDS = 4000  # enough for the words of a tiny model's vocabulary


def train(config: SFTConfig, recorder: Recorder) -> dict:
    """Train the policy on the answers; returns the manifest's summary."""
    device = engine.start(config, recorder)
    recorder.beat(0, "read the data")
    data = load_data(config, recorder)
    model, tokenizer = start_model(config, data.train, engine.dtype_of(config, device))
    limit = models.max_length(model, config.max_seq_len)
    examples, left_out = encode(tokenizer, data.train, limit, recorder)
    held_out, lost = encode(tokenizer, data.held_out, limit, recorder)
    left_out += [f"held out: {line}" for line in lost]
    report = [*data.report, *left_out]
    recorder.tell_data(report)

    size = models.size_of(model)
    net = trained(config, model, recorder)
    lengths = [len(e.ids) for e in examples]
    batches = collate.Batches(lengths, config.batch_size, config.seed, left_out)
    first, state = engine.restore({"model": net}, recorder)
    tokens, loss, meter = state.get("tokens", 0), state.get("loss"), Meter(recorder.world)

    for step in range(first, config.steps):
        recorder.beat(step, "train")
        batch = [examples[i] for i in batches.at(step)]
        rate = net.get_lr()[0]  # after the step it is the next one's
        loss = learn(net, batch, tokenizer, config, recorder, device)
        read, done = sum(len(e.ids) for e in batch), step + 1
        tokens += read
        meter.add(len(batch), read, flops(config, size, batch))
        figures = {"loss": loss, "learning_rate": rate, "grad_norm": engine.grad_norm(net)}
        engine.log(net, recorder, done, **figures, tokens=tokens, **meter.rates())
        if due(config.eval_every, done) and held_out:
            found = evaluate(net, held_out, tokenizer, config, recorder, device)
            engine.log(net, recorder, done, held_out_loss=found)
        if due(config.print_answers, done):
            rollout.print_answers(net, tokenizer, data.held_out, config, recorder)
        if recorder.saves_at(done, config.save_every):
            state = {"tokens": tokens, "loss": loss}
            engine.save_checkpoint({"model": net}, config, recorder, done, state)

    seconds = meter.seconds
    speed = meter.rates(seconds)
    recorder.beat(config.steps, "save")  # first: evaluating may fail, and weights would be lost
    engine.save_model(net, tokenizer, recorder.directory / "model")
    recorder.beat(config.steps, "evaluate")
    ask = (tokenizer, config, recorder, device)
    return {
        "examples": len(examples),
        "tokens": tokens,
        "train_seconds": seconds,
        **speed,
        "loss": loss,
        "held_out_loss": evaluate(net, held_out, *ask) if held_out else None,
        "data_report": report,
    }


def learn(
    net: engine.Engine,
    batch: list[template.Encoded],
    tokenizer: PreTrainedTokenizerBase,
    config: SFTConfig,
    recorder: Recorder,
    device: torch.device,
) -> float:
    """One optimizer step on a batch, of which every rank takes its share; returns L (nats)."""
    answer_tokens = sum(sum(e.mask) for e in batch)
    loss = torch.zeros((), device=device)
    for micro in micro_batches(batch, config, recorder):
        ids, mask = collate.to_device(device, *tensors(micro, tokenizer.pad_token_id))
        logp, _ = net(ids, mask)
        part = negative_log_likelihood(logp, denominator=answer_tokens)
        engine.backward(net, part)
        net.step()
        loss += part.detach()
    return engine.sum_over_ranks(loss).item()


# ------------------------------------------------------------------------ its parts
def start_model(
    config: SFTConfig, records: list[Dialogue], dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """(policy, tokenizer): both new for a `TinyModel`, else those of the named model.

    A named model is loaded in the number format of training; a new one's first weights are drawn
    in fp32.
    """
    if not isinstance(config.model, TinyModel):
        tokenizer = models.load_tokenizer(config.model)
        return models.load_policy(config.model, tokenizer, dtype), tokenizer
    texts = (m["content"] for r in islice(records, TOKENIZER_RECORDS) for m in r.messages)
    size = config.model.vocab_size
    tokenizer = engine.from_rank0(lambda: template.train_tokenizer(texts, size))
    return models.tiny_policy(config.model, tokenizer), tokenizer


def trained(config: SFTConfig, model: PreTrainedModel, recorder: Recorder) -> engine.Engine:
    """The engine around a policy, made ready as the settings ask."""
    if config.disable_dropout:
        models.disable_dropout(model)
    models.adapt(model, config, "CAUSAL_LM", recorder)
    rate, steps = config.learning_rate, config.steps
    return engine.initialize(config, AnswerLM(model), rate, steps, "model", recorder)


def encode(
    tokenizer: PreTrainedTokenizerBase, records: list[Dialogue], limit: int, recorder: Recorder
) -> tuple[list[template.Encoded], list[str]]:
    """(encoded dialogues, report): every rank encodes a share; what is cut or lost is counted."""
    own = collate.shard(range(len(records)), recorder.rank, recorder.world)
    encoded = engine.gather(template.encode(tokenizer, [records[i].messages for i in own]))
    cut = [e.cut(limit) for e in encoded]
    usable = [e for e in cut if any(e.mask)]
    report = []
    if long := sum(len(e.ids) > limit for e in encoded):
        report.append(f"{long} of {len(encoded)} dialogues were cut to {limit} tokens")
    if lost := len(cut) - len(usable):
        report.append(
            f"{lost} of {len(encoded)} dialogues left out: no answer within {limit} tokens"
        )
    return usable, report


def micro_batches(
    batch: list[template.Encoded], config: SFTConfig, recorder: Recorder
) -> list[list[template.Encoded]]:
    """This rank's share of a batch, cut for gradient accumulation."""
    own = collate.shard(batch, recorder.rank, recorder.world)
    size = config.micro_batch
    return [own[i : i + size] for i in range(0, len(own), size)]


def flops(config: SFTConfig, size: Size, batch: list[template.Encoded]) -> float:
    """FLOPs of an optimizer step on a batch; a dialogue's last token predicts nothing."""
    lengths, answer_tokens = [len(e.ids) - 1 for e in batch], sum(sum(e.mask) for e in batch)
    forward = forward_flops(size, lengths, answer_tokens)
    return training_flops(forward, config, size)


def tensors(batch: list[template.Encoded], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, answer mask), both (batch, time), padded on the right."""
    ids, _ = collate.pad([e.ids for e in batch], pad_id)
    mask, _ = collate.pad([e.mask for e in batch], 0)
    return ids, mask


@torch.no_grad()
def evaluate(
    net: nn.Module,
    examples: list[template.Encoded],
    tokenizer: PreTrainedTokenizerBase,
    config: SFTConfig,
    recorder: Recorder,
    device: torch.device,
) -> float:
    """Mean loss per answer token (nats) on examples that were not trained on.

    Every rank takes the same number of equally large batches, as ZeRO stage 3 needs.
    """
    net.eval()
    total = torch.zeros(2, dtype=torch.float64)
    by_length = sorted(examples, key=lambda e: len(e.ids))
    own, real = collate.equal_shard(by_length, recorder.rank, recorder.world)
    for i, part in in_parts(own, config, 32, recorder):
        ids, mask = collate.to_device(device, *tensors(part, tokenizer.pad_token_id))
        logp, _ = net(ids, mask)
        counts = (torch.arange(i, i + len(ids), device=device) < real).float()
        weight = torch.repeat_interleave(counts, mask[:, 1:].sum(1))
        total += torch.stack([-(logp * weight).sum(), weight.sum()]).double().cpu()
    net.train()
    loss, count = engine.sum_over_ranks(total)
    return (loss / count).item()


# ------------------------------------------------- what the reward stage's loop has as well
def due(every: int, done: int) -> bool:
    """Whether something that happens every so many steps happens now; never if ``every`` is 0."""
    return every > 0 and done % every == 0


def in_parts(
    own: list[T], config: StageConfig, most: int, recorder: Recorder
) -> Iterator[tuple[int, list[T]]]:
    """(start, part) of a rank's examples for passes without a gradient, with a beat each.

    A part is four micro-batches, at most ``most`` examples: without a gradient no layer's
    activations outlive it, so this needs no more memory than training does.
    """
    size = min(most, 4 * config.micro_batch)
    for i in range(0, len(own), size):
        recorder.beat(recorder.state["step"], "evaluate")  # slow is not stuck
        yield i, own[i : i + size]
