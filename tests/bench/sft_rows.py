"""SFT: DeepSpeed with one rank against a bare PyTorch loop, and against TRL's SFTTrainer."""

from __future__ import annotations

import statistics

import torch
import work
from compare import Peer, Row, Side, in_turns, timed
from environments import python

from chatlib.maths.likelihood import negative_log_likelihood
from chatlib.settings.stages import SFTConfig
from chatlib.train import engine, models
from chatlib.train.models import AnswerLM
from chatlib.train.sft import tensors

STEPS = 30  # of one round


def _policy() -> AnswerLM:
    return AnswerLM(models.load_policy(str(work.model("sft")), work.tokenizer()))


def deepspeed_side(config: SFTConfig, batches: list[list], pad: int) -> Side:
    """The SFT stage's step: collate, forward, DeepSpeed's backward and step."""
    net = engine.initialize(config, _policy(), work.LEARNING_RATE, len(batches))

    def step(batch: list) -> None:
        ids, mask = tensors(batch, pad)
        logp, _ = net(ids, mask)
        engine.backward(net, negative_log_likelihood(logp, denominator=mask.sum()))
        net.step()

    return lambda k: timed(lambda: [step(b) for b in batches[k * STEPS : (k + 1) * STEPS]])


def bare_side(config: SFTConfig, batches: list[list], pad: int) -> Side:
    """The same step written in PyTorch alone."""
    net = _policy()
    optimizer = torch.optim.AdamW(
        net.parameters(),
        lr=work.LEARNING_RATE,
        betas=config.betas,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, engine.schedule(config, len(batches)))

    def step(batch: list) -> None:
        ids, mask = tensors(batch, pad)
        logp, _ = net(ids, mask)
        negative_log_likelihood(logp, denominator=mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    return lambda k: timed(lambda: [step(b) for b in batches[k * STEPS : (k + 1) * STEPS]])


def tokens(batches: list[list]) -> float:
    """Tokens of a round, in the mean."""
    return STEPS * statistics.mean(sum(len(e.ids) for e in batch) for batch in batches)


def against_bare_loop(rounds: int) -> Row:
    """What DeepSpeed costs one process."""
    config, pad = work.sft_config(), work.tokenizer().pad_token_id
    batches = work.dialogues(config, STEPS * (rounds + 1))
    ours, bare = deepspeed_side(config, batches, pad), bare_side(config, batches, pad)
    times = in_turns(ours, bare, rounds)
    return Row("SFT: DeepSpeed, 1 rank / bare loop", 0.9, "tokens", tokens(batches), *times)


def against_trl(rounds: int, own_batches: bool = False) -> Row:
    """The same batches in the same order through TRL's trainer.

    With ``own_batches`` a round's examples are the same but TRL's batches random, its default;
    only ours hold examples of similar length.
    """
    config, pad = work.sft_config(), work.tokenizer().pad_token_id
    batches = work.dialogues(config, STEPS * (rounds + 1))
    theirs = work.regrouped(batches, STEPS) if own_batches else batches
    rows = [{"input_ids": e.ids, "completion_mask": e.mask} for b in theirs for e in b]
    settings = dict(
        model=str(work.model("sft")),
        data=work.write("sft", rows),
        batch_size=config.batch_size,
        steps=STEPS,
        learning_rate=work.LEARNING_RATE,
    )
    with Peer(python(".venv-bench"), "sft.py", settings) as trl:
        times = in_turns(deepspeed_side(config, batches, pad), trl, rounds)
    name = "SFT / TRL SFTTrainer" + (", its own batches" if own_batches else "")
    return Row(name, 1.7, "tokens", tokens(batches), *times)
