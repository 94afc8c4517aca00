"""Direct preference optimisation (chapter 10): the reward model left out.

    L = - mean log sigmoid( beta (log pi/ref)(chosen) - beta (log pi/ref)(rejected) )

Rafailov et al. 2023, equation 7. The reference is the policy before its first step, so its
log-probabilities are taken once, before training, and no second model is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from chatlib.data import collate
from chatlib.maths.preference import dpo_loss, ipo_loss, pairwise_accuracy
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import DPOConfig
from chatlib.train import engine, models
from chatlib.train.models import AnswerLM
from chatlib.train.records import load_data
from chatlib.train.reward import encode_apart
from chatlib.train.sft import due, in_parts
from chatlib.train.throughput import Meter, Size, forward_flops, training_flops

Pair = tuple[list[int], list[int], list[int]]  # token ids of prompt, chosen and rejected answer
LOSSES = {"sigmoid": dpo_loss, "ipo": ipo_loss}
FIGURES = ("loss", "accuracy", "margin", "chosen_log_ratio", "rejected_log_ratio")


def train(config: DPOConfig, recorder: Recorder) -> dict:
    """Tune the policy on annotated pairs; returns the manifest's summary."""
    device = engine.start(config, recorder)
    recorder.beat(0, "read the data")
    data = load_data(config, recorder)
    tokenizer = models.load_tokenizer(config.model)
    model = models.load_policy(config.model, tokenizer, engine.dtype_of(config, device))
    limit = models.max_length(model, config.max_seq_len)
    pairs, _, left_out = encode_apart(tokenizer, data.train, limit, recorder)
    held_out, _, lost = encode_apart(tokenizer, data.held_out, limit, recorder)
    left_out += [f"held out: {line}" for line in lost]
    report = [*data.report, *left_out]
    recorder.tell_data(report)

    size = models.size_of(model)
    models.disable_dropout(model)  # or policy and reference would differ before the first step
    models.adapt(model, config, "CAUSAL_LM", recorder)
    rate, steps = config.learning_rate, config.steps
    net = engine.initialize(config, AnswerLM(model), rate, steps, "model", recorder)
    lengths = [len(p) + max(len(a), len(b)) for p, a, b in pairs]
    batches = collate.Batches(lengths, config.batch_size, config.seed, left_out)
    recorder.beat(0, "reference")
    reference = reference_log_probs(net, pairs, batches, tokenizer, config, recorder, device)
    held_reference = log_probs_of(net, held_out, tokenizer, config, recorder, device)
    first, state = engine.restore({"model": net}, recorder)
    tokens, loss, meter = state.get("tokens", 0), state.get("loss"), Meter(recorder.world)

    for step in range(first, config.steps):
        recorder.beat(step, "train")
        index = batches.at(step)
        batch, known, rate = [pairs[i] for i in index], reference[index], net.get_lr()[0]
        figures = learn(net, batch, known, tokenizer, config, recorder, device)
        read, done = sum(2 * len(p) + len(a) + len(b) for p, a, b in batch), step + 1
        tokens, loss = tokens + read, figures["loss"]
        meter.add(len(batch), read, flops(config, size, batch))
        engine.log(
            net, recorder, done, **figures, learning_rate=rate, tokens=tokens, **meter.rates()
        )
        if due(config.eval_every, done) and held_out:
            scores = log_probs_of(net, held_out, tokenizer, config, recorder, device)
            found = held_out_accuracy(config, scores, held_reference, held_out)
            engine.log(net, recorder, done, held_out_accuracy=found)
        if recorder.saves_at(done, config.save_every):
            state = {"tokens": tokens, "loss": loss}
            engine.save_checkpoint({"model": net}, config, recorder, done, state)

    seconds = meter.seconds
    summary = {"examples": len(pairs), "tokens": tokens, "train_seconds": seconds}
    summary |= {**meter.rates(seconds), "loss": loss, "data_report": report}
    recorder.beat(config.steps, "save")
    engine.save_model(net, tokenizer, recorder.directory / "model")
    recorder.beat(config.steps, "evaluate")
    if held_out:
        scores = log_probs_of(net, held_out, tokenizer, config, recorder, device)
        accuracy = held_out_accuracy(config, scores, held_reference, held_out)
        summary["held_out_accuracy"] = accuracy
    return summary


def learn(
    net: engine.Engine,
    batch: list[Pair],
    reference: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    config: DPOConfig,
    recorder: Recorder,
    device: torch.device,
) -> dict[str, float]:
    """One optimizer step on a batch, of which every rank takes its share.

    ``reference`` (n, 2) holds the answers' log-probabilities before training. Returns means over
    the batch's pairs: ``loss``, ``accuracy``, ``margin`` (of the implicit rewards) and the two
    log-ratios to the reference, in nats an answer (a token, if ``per_token``).
    """
    sums = torch.zeros(len(FIGURES), device=device)
    own = collate.shard(batch, recorder.rank, recorder.world)
    known = reference[recorder.rank :: recorder.world].to(device)
    for i in range(0, len(own), config.micro_batch):
        part, ref = own[i : i + config.micro_batch], known[i : i + config.micro_batch]
        loss, stats = pair_loss(config, answer_log_probs(net, part, tokenizer, device), ref, part)
        part_loss = loss / len(batch)
        engine.backward(net, part_loss)
        net.step()
        sums += torch.cat([part_loss.detach()[None], stats / len(batch)])
    return dict(zip(FIGURES, engine.sum_over_ranks(sums).tolist()))


def pair_loss(
    config: DPOConfig, logp: Tensor, reference: Tensor, pairs: list[Pair]
) -> tuple[Tensor, Tensor]:
    """(summed loss, sums over the pairs of what `FIGURES` names after it), log-probs (n, 2)."""
    chosen, rejected = by_length(config, logp, pairs).T
    ref_chosen, ref_rejected = by_length(config, reference, pairs).T
    loss, stats = LOSSES[config.loss](
        chosen, rejected, ref_chosen, ref_rejected, config.beta, denominator=1
    )
    ratios = (chosen - ref_chosen).detach().sum(), (rejected - ref_rejected).detach().sum()
    margin = (stats["reward_chosen"] - stats["reward_rejected"]) * len(pairs)
    return loss, torch.stack([stats["accuracy"] * len(pairs), margin, *ratios])


def by_length(config: DPOConfig, logp: Tensor, pairs: list[Pair]) -> Tensor:
    """Log-probabilities of answers (n, 2), divided by their tokens if the settings ask for it."""
    if not config.per_token:
        return logp
    return logp / torch.tensor([[len(a), len(b)] for _, a, b in pairs], device=logp.device)


def answer_log_probs(
    net: torch.nn.Module,
    pairs: list[Pair],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> Tensor:
    """log pi of the chosen and the rejected answer as a whole, in nats. (n, 2)"""
    answers = [answer for _, *both in pairs for answer in both]
    rows = [p + answer for p, *both in pairs for answer in both]
    marks = [[0] * (len(row) - len(a)) + [1] * len(a) for row, a in zip(rows, answers)]
    ids, marked = collate.pad(rows, tokenizer.pad_token_id)[0], collate.pad(marks, 0)[0]
    logp, _ = net(*collate.to_device(device, ids, marked))
    return torch.stack([part.sum() for part in logp.split([len(a) for a in answers])]).view(-1, 2)


def reference_log_probs(
    net: engine.Engine,
    pairs: list[Pair],
    batches: collate.Batches,
    tokenizer: PreTrainedTokenizerBase,
    config: DPOConfig,
    recorder: Recorder,
    device: torch.device,
) -> Tensor:
    """(pairs, 2): of those pairs that the run will meet, each once; NaN for the others."""
    used = sorted({i for step in range(config.steps) for i in batches.at(step)})
    known = log_probs_of(net, [pairs[i] for i in used], tokenizer, config, recorder, device)
    out = torch.full((len(pairs), 2), torch.nan)
    out[used] = known
    return out


@torch.no_grad()
def log_probs_of(
    net: engine.Engine,
    pairs: list[Pair],
    tokenizer: PreTrainedTokenizerBase,
    config: DPOConfig,
    recorder: Recorder,
    device: torch.device,
) -> Tensor:
    """`answer_log_probs` of many pairs, shared out over the ranks; in their order on every rank."""
    if not pairs:
        return torch.zeros(0, 2)
    net.eval()
    own, _ = collate.equal_shard(pairs, recorder.rank, recorder.world)
    out: list[list[float]] = []
    for _, part in in_parts(own, config, 64, recorder):
        out += answer_log_probs(net, part, tokenizer, device).tolist()
    net.train()
    return torch.tensor(engine.gather(out)[: len(pairs)])


def held_out_accuracy(
    config: DPOConfig, logp: Tensor, reference: Tensor, pairs: list[Pair]
) -> float:
    """Share of pairs whose chosen answer has the higher implicit reward, a tie counting half."""
    ratios = by_length(config, logp - reference, pairs)
    return pairwise_accuracy(ratios[:, 0], ratios[:, 1]).item()


def flops(config: DPOConfig, size: Size, batch: list[Pair]) -> float:
    """FLOPs of an optimizer step on pairs, two rows each."""
    lengths = [len(p) + len(answer) - 1 for p, *both in batch for answer in both]
    answers = sum(len(a) + len(b) for _, a, b in batch)
    return training_flops(forward_flops(size, lengths, answers), config, size)
