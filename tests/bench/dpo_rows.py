"""DPO against TRL's DPOTrainer."""

from __future__ import annotations

import torch
import work
from compare import Peer, Row, Side, in_turns, timed
from environments import python

from chatlib.settings.stages import DPOConfig
from chatlib.train import dpo, engine, models
from chatlib.train.models import AnswerLM

STEPS = 6  # of one round


def chatlib_side(config: DPOConfig, batches: list[list[dpo.Pair]]) -> Side:
    """The DPO stage's step; the reference's log-probabilities are taken before, as in the stage."""
    tokenizer, recorder, device = work.tokenizer(), work.recorder(), torch.device("cpu")
    policy = models.load_policy(str(work.model("sft")), tokenizer)
    net = engine.initialize(config, AnswerLM(policy), work.LEARNING_RATE, len(batches))
    known = [dpo.log_probs_of(net, b, tokenizer, config, recorder, device) for b in batches]

    def step(i: int) -> None:
        dpo.learn(net, batches[i], known[i], tokenizer, config, recorder, device)

    return lambda k: timed(lambda: [step(i) for i in range(k * STEPS, (k + 1) * STEPS)])


def against_trl(rounds: int) -> Row:
    """The same pairs in the same order through TRL's trainer, its reference precomputed too."""
    config = work.dpo_config()
    batches = work.pairs_apart(config, STEPS * (rounds + 1))
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    settings = dict(
        model=str(work.model("sft")),
        data=work.write("dpo", [dict(zip(names, pair)) for batch in batches for pair in batch]),
        batch_size=config.batch_size,
        steps=STEPS,
        learning_rate=work.LEARNING_RATE,
        beta=config.beta,
    )
    with Peer(python(".venv-bench"), "dpo.py", settings) as trl:
        times = in_turns(chatlib_side(config, batches), trl, rounds)
    return Row("DPO / TRL DPOTrainer", 1.7, "pairs", STEPS * config.batch_size, *times)
