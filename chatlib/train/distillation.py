"""Distillation (chapter 13): a small model learns what a large one would say, token by token.

    L = 1/N  sum over dialogues, sum over answer tokens t of  D(teacher, student | what came before)

D is a divergence of the two distributions over the vocabulary (`maths.distillation`), N the number
of answer tokens of the whole step. On-policy steps take answers that the student drew itself, so
that it learns to go on from its own mistakes (Agarwal et al. 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatlib.data import collate, template
from chatlib.maths.distillation import distillation_loss
from chatlib.runs.recorder import Recorder
from chatlib.settings.distillation import DistillationConfig
from chatlib.settings.stages import TinyModel
from chatlib.train import engine, models, rollout
from chatlib.train.records import load_data
from chatlib.train.sft import due, encode, flops, in_parts, tensors
from chatlib.train.throughput import Meter


class AnswerLogits(nn.Module):
    """Logits (N, vocabulary) at the places that predict the marked tokens, row by row."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        models.exact_head(model.get_output_embeddings())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``ids`` and ``mask`` (batch, time), padded on the right; see `models.AnswerLM`."""
        hidden = models.hidden_states(self.model, ids[:, :-1], mask[:, 1:])
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits


def train(config: DistillationConfig, recorder: Recorder) -> dict:
    """Train the student; returns the manifest's summary."""
    device = engine.start(config, recorder)
    recorder.beat(0, "read the data")
    data = load_data(config, recorder)
    tokenizer = models.load_tokenizer(config.teacher)
    teacher = AnswerLogits(load_teacher(config, tokenizer, device))
    model = student(config, tokenizer, engine.dtype_of(config, device))
    limit = models.max_length(model, config.max_seq_len)
    examples, left_out = encode(tokenizer, data.train, limit, recorder)
    held_out, lost = encode(tokenizer, data.held_out, limit, recorder)
    report = [*data.report, *left_out, *(f"held out: {line}" for line in lost)]
    recorder.tell_data(report)

    size = models.size_of(model)
    if config.disable_dropout:
        models.disable_dropout(model)
    models.adapt(model, config, "CAUSAL_LM", recorder)
    rate, steps = config.learning_rate, config.steps
    net = engine.initialize(config, AnswerLogits(model), rate, steps, "model", recorder)
    lengths = [len(e.ids) for e in examples]
    batches = collate.Batches(lengths, config.batch_size, config.seed, left_out)
    first, state = engine.restore({"model": net}, recorder)
    tokens, loss, meter = state.get("tokens", 0), state.get("loss"), Meter(recorder.world)

    for step in range(first, config.steps):
        recorder.beat(step, "train")
        batch, rate = [examples[i] for i in batches.at(step)], net.get_lr()[0]
        own = collate.shard(batch, recorder.rank, recorder.world)
        if drawn := is_on_policy(config, step):
            own = answered(net, own, tokenizer, config, limit)
        loss = learn(net, teacher, own, tokenizer, config, device)
        read, done = sum(len(e.ids) for e in batch), step + 1
        tokens += read
        meter.add(len(batch), read, flops(config, size, batch))
        figures = {"loss": loss, "learning_rate": rate, "on_policy": float(drawn)}
        engine.log(net, recorder, done, **figures, tokens=tokens, **meter.rates())
        if due(config.eval_every, done) and held_out:
            found = evaluate(net, teacher, held_out, tokenizer, config, recorder, device)
            engine.log(net, recorder, done, held_out_loss=found)
        if recorder.saves_at(done, config.save_every):
            state = {"tokens": tokens, "loss": loss}
            engine.save_checkpoint({"model": net}, config, recorder, done, state)

    seconds = meter.seconds
    recorder.beat(config.steps, "save")
    engine.save_model(net, tokenizer, recorder.directory / "model")
    recorder.beat(config.steps, "evaluate")
    ask = (teacher, held_out, tokenizer, config, recorder, device)
    summary = {"examples": len(examples), "tokens": tokens, "train_seconds": seconds}
    summary |= {**meter.rates(seconds), "loss": loss, "data_report": report}
    return summary | {"held_out_loss": evaluate(net, *ask) if held_out else None}


def learn(
    net: engine.Engine,
    teacher: AnswerLogits,
    own: list[template.Encoded],
    tokenizer: PreTrainedTokenizerBase,
    config: DistillationConfig,
    device: torch.device,
) -> float:
    """One optimizer step on this rank's share of a batch; returns L over all ranks (nats)."""
    answer_tokens = engine.sum_over_ranks(float(sum(sum(e.mask) for e in own))).to(device)
    loss = torch.zeros((), device=device)
    for i in range(0, len(own), config.micro_batch):
        part = own[i : i + config.micro_batch]
        ids, mask = collate.to_device(device, *tensors(part, tokenizer.pad_token_id))
        with torch.no_grad():
            target = teacher(ids, mask)
        per_token = distillation_loss(net(ids, mask), target, config.loss, config.temperature)
        share = per_token.sum() / answer_tokens
        engine.backward(net, share)
        net.step()
        loss += share.detach()
    return engine.sum_over_ranks(loss).item()


# ------------------------------------------------------------------------ its parts
def load_teacher(
    config: DistillationConfig, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> PreTrainedModel:
    """The teacher: it only answers, a copy on every rank."""
    dtype = engine.dtype_of(config, device)
    found = models.load_policy(config.teacher, tokenizer, dtype).eval().requires_grad_(False)
    return found.to(device)


def student(
    config: DistillationConfig,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A new small model with the teacher's vocabulary, or the one that is named.

    Raises `ValueError` for one that has another vocabulary: its tokens would mean other things.
    """
    if isinstance(config.model, TinyModel):
        return models.tiny_policy(config.model, tokenizer)
    own = models.load_tokenizer(config.model)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"model {config.model} and teacher {config.teacher} have different tokens, so their "
            "probabilities cannot be compared; name a student of the teacher's family"
        )
    return models.load_policy(config.model, tokenizer, dtype)


def is_on_policy(config: DistillationConfig, step: int) -> bool:
    """Whether a step takes the student's own answers: so many of them, spread evenly."""
    return int((step + 1) * config.on_policy) > int(step * config.on_policy)


def answered(
    net: engine.Engine,
    own: list[template.Encoded],
    tokenizer: PreTrainedTokenizerBase,
    config: DistillationConfig,
    limit: int,
) -> list[template.Encoded]:
    """The same prompts, each with an answer that the student draws, of `limit` tokens at most."""
    prompts = [e.ids[: opening(e)] for e in own]
    most = max(1, min(config.max_answer_tokens, limit - max(map(len, prompts))))
    model, training = net.module.model, net.training
    net.eval()
    with engine.whole(net):
        drawn = rollout.sample(model, prompts, most, tokenizer.eos_token_id, tokenizer.pad_token_id)
    net.train(training)
    pairs = zip(prompts, drawn)
    return [template.Encoded(p + a, [0] * len(p) + [1] * len(a)) for p, a in pairs]


def opening(example: template.Encoded) -> int:
    """Where the last answer of a dialogue begins."""
    last = len(example.mask) - 1 - example.mask[::-1].index(1)
    while last and example.mask[last - 1]:
        last -= 1
    return last


@torch.no_grad()
def evaluate(
    net: engine.Engine,
    teacher: AnswerLogits,
    examples: list[template.Encoded],
    tokenizer: PreTrainedTokenizerBase,
    config: DistillationConfig,
    recorder: Recorder,
    device: torch.device,
) -> float:
    """Mean loss per answer token (nats) on dialogues that were not trained on."""
    net.eval()
    total = torch.zeros(2, dtype=torch.float64)
    own, real = collate.equal_shard(examples, recorder.rank, recorder.world)
    for i, part in in_parts(own, config, 32, recorder):
        ids, mask = collate.to_device(device, *tensors(part, tokenizer.pad_token_id))
        found = distillation_loss(
            net(ids, mask), teacher(ids, mask), config.loss, config.temperature
        )
        counts = (torch.arange(i, i + len(ids), device=device) < real).float()
        weight = torch.repeat_interleave(counts, mask[:, 1:].sum(1))
        total += torch.stack([(found * weight).sum(), weight.sum()]).double().cpu()
    net.train()
    loss, count = engine.sum_over_ranks(total)
    return (loss / count).item()
