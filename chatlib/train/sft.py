"""Supervised fine-tuning (chapter 3): maximise the log-likelihood of the answers.

    L = - 1/N  sum over dialogues, sum over answer tokens t of  log pi(y_t | what came before)

N is the number of answer tokens of the whole step, over all ranks and micro-batches.
"""

from __future__ import annotations

import time
from itertools import islice

import torch

from chatlib.data import collate, sources, template
from chatlib.data.schema import Dialogue
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import SFTConfig, TinyModel
from chatlib.train import engine, models, rollout
from chatlib.train.models import AnswerLM
from chatlib.train.throughput import Size, forward_flops, rates, training_flops

TOKENIZER_RECORDS = 4000  # enough for the words of a tiny model's vocabulary


def train(config: SFTConfig, recorder: Recorder) -> dict:
    """Train the policy on the answers; returns the manifest's summary."""
    device = engine.start(config, recorder)
    recorder.beat(0, "read the data")
    data = sources.load(config)
    model, tokenizer = start_model(config, data.train)
    if config.disable_dropout:
        models.disable_dropout(model)
    limit = models.longest(model, config.max_seq_len)
    examples, report = encode(tokenizer, data.train, limit, recorder)
    held_out, lost = encode(tokenizer, data.held_out, limit, recorder)
    report += [f"held out: {line}" for line in lost]
    recorder.tell_data([*data.report, *report])

    size = models.size_of(model)
    models.adapt(model, config, "CAUSAL_LM", recorder)
    net = engine.initialize(
        config, AnswerLM(model), config.learning_rate, config.steps, "model", recorder
    )
    batches = collate.Batches(
        [len(e.ids) for e in examples], config.batch_size, config.seed, report
    )
    first, state = engine.restore({"model": net}, recorder)
    tokens, loss, began = state.get("tokens", 0), state.get("loss"), time.perf_counter()
    work = torch.zeros(3, dtype=torch.float64)  # samples, tokens, FLOPs since this launch began

    for step in range(first, config.steps):
        recorder.beat(step, "train")
        batch = [examples[i] for i in batches.at(step)]
        loss = learn(net, batch, tokenizer, config, recorder, device)
        read, done = sum(len(e.ids) for e in batch), step + 1
        tokens += read
        work += torch.tensor([len(batch), read, flops(config, size, batch)])
        engine.log(
            net,
            recorder,
            done,
            loss=loss,
            learning_rate=net.get_lr()[0],
            grad_norm=engine.grad_norm(net),
            tokens=tokens,
            **rates(*work.tolist(), time.perf_counter() - began, recorder.world),
        )
        if config.eval_every and done % config.eval_every == 0 and held_out:
            found = evaluate(net, held_out, tokenizer, recorder, device)
            engine.log(net, recorder, done, held_out_loss=found)
        if config.print_answers and done % config.print_answers == 0:
            rollout.print_answers(net, tokenizer, data.held_out, config, recorder)
        if recorder.saves_at(done, config.save_every):
            engine.save_checkpoint(
                {"model": net}, config, recorder, done, {"tokens": tokens, "loss": loss}
            )

    seconds = time.perf_counter() - began
    recorder.beat(config.steps, "evaluate")
    held_out_loss = evaluate(net, held_out, tokenizer, recorder, device) if held_out else None
    recorder.beat(config.steps, "save")
    engine.save_model(net, tokenizer, recorder.directory / "model")
    return {
        "examples": len(examples),
        "tokens": tokens,
        "train_seconds": seconds,
        **rates(*work.tolist(), seconds, recorder.world),
        "loss": loss,
        "held_out_loss": held_out_loss,
        "data_report": [*data.report, *report],
    }


def learn(
    net, batch: list[template.Encoded], tokenizer, config: SFTConfig, recorder: Recorder, device
) -> float:
    """One optimizer step on a batch, of which every rank takes its share; returns L (nats)."""
    answer_tokens = sum(sum(e.mask) for e in batch)
    loss = torch.zeros((), device=device)
    for micro in micro_batches(batch, config, recorder):
        ids, mask = collate.place(device, *tensors(micro, tokenizer.pad_token_id))
        logp, _ = net(ids, mask)
        part = -logp.sum() / answer_tokens
        engine.backward(net, part)
        net.step()
        loss += part.detach()
    return engine.sum_over_ranks(loss).item()


def start_model(config: SFTConfig, records: list[Dialogue]):
    """(policy, tokenizer): both new for a `TinyModel`, else those of the named model."""
    if not isinstance(config.model, TinyModel):
        tokenizer = models.load_tokenizer(config.model)
        return models.load_policy(config.model, tokenizer), tokenizer
    texts = (m["content"] for r in islice(records, TOKENIZER_RECORDS) for m in r.messages)
    size = config.model.vocab_size
    tokenizer = engine.from_rank0(lambda: template.train_tokenizer(texts, size))
    return models.tiny_policy(config.model, tokenizer), tokenizer


def encode(tokenizer, records: list[Dialogue], limit: int, recorder: Recorder):
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


def micro_batches(batch: list, config: SFTConfig, recorder: Recorder) -> list[list]:
    """This rank's share of a batch, cut for gradient accumulation."""
    own = collate.shard(batch, recorder.rank, recorder.world)
    size = config.micro_batch
    return [own[i : i + size] for i in range(0, len(own), size)]


def flops(config: SFTConfig, size: Size, batch: list[template.Encoded]) -> float:
    """FLOPs of an optimizer step on a batch; a dialogue's last token predicts nothing."""
    lengths, answer_tokens = [len(e.ids) - 1 for e in batch], sum(sum(e.mask) for e in batch)
    forward = forward_flops(size, lengths, answer_tokens)
    return training_flops(forward, config)


def tensors(batch: list[template.Encoded], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, answer mask), both (batch, time), padded on the right."""
    ids, _ = collate.pad([e.ids for e in batch], pad_id)
    mask, _ = collate.pad([e.mask for e in batch], 0)
    return ids, mask


@torch.no_grad()
def evaluate(net, examples: list[template.Encoded], tokenizer, recorder: Recorder, device) -> float:
    """Mean loss per answer token (nats) on examples that were not trained on.

    Every rank takes the same number of equally large batches, as ZeRO stage 3 needs.
    """
    net.eval()
    own = collate.shard(sorted(examples, key=lambda e: len(e.ids)), recorder.rank, recorder.world)
    own += examples[:1] * (-(-len(examples) // recorder.world) - len(own))  # a repeat, weighted 0
    real = len(collate.shard(examples, recorder.rank, recorder.world))
    total = torch.zeros(2, dtype=torch.float64)
    for i in range(0, len(own), 32):
        recorder.beat(recorder.state["step"], "evaluate")  # slow is not stuck
        ids, mask = collate.place(device, *tensors(own[i : i + 32], tokenizer.pad_token_id))
        logp, _ = net(ids, mask)
        weight = torch.repeat_interleave(
            (torch.arange(i, i + len(ids), device=device) < real).float(), mask[:, 1:].sum(1)
        )
        total += torch.stack([-(logp * weight).sum(), weight.sum()]).double().cpu()
    net.train()
    loss, count = engine.sum_over_ranks(total)
    return (loss / count).item()
