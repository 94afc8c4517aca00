"""The reward model against TRL's RewardTrainer."""

from __future__ import annotations

import torch
import work
from compare import Peer, Row, Side, in_turns, timed
from environments import python

from chatlib.maths.preference import pairwise_loss
from chatlib.settings.stages import RewardConfig
from chatlib.train import engine, models
from chatlib.train.models import TokenScorer
from chatlib.train.reward import Pair, score_pairs

STEPS = 12  # of one round


def deepspeed_side(config: RewardConfig, batches: list[list[Pair]]) -> Side:
    """The reward stage's step."""
    tokenizer = work.tokenizer()
    scorer = TokenScorer(models.load_scorer(str(work.model("reward")), tokenizer))
    net = engine.initialize(config, scorer, work.LEARNING_RATE, len(batches))

    def step(batch: list[Pair]) -> None:
        chosen, rejected = score_pairs(net, batch, tokenizer, torch.device("cpu"))
        engine.backward(net, pairwise_loss(chosen, rejected))
        net.step()

    return lambda k: timed(lambda: [step(b) for b in batches[k * STEPS : (k + 1) * STEPS]])


def against_trl(rounds: int, own_batches: bool = False) -> Row:
    """The same pairs in the same order through TRL's trainer; ``own_batches`` as for SFT."""
    config = work.reward_config()
    batches = work.pairs(config, STEPS * (rounds + 1))
    theirs = work.regrouped(batches, STEPS) if own_batches else batches
    rows = [{"chosen_ids": c, "rejected_ids": r} for batch in theirs for c, r in batch]
    settings = dict(
        model=str(work.model("reward")),
        data=work.write("reward", rows),
        batch_size=config.batch_size,
        steps=STEPS,
        learning_rate=work.LEARNING_RATE,
    )
    with Peer(python(".venv-bench"), "reward.py", settings) as trl:
        times = in_turns(deepspeed_side(config, batches), trl, rounds)
    name = "reward model / TRL RewardTrainer" + (", its own batches" if own_batches else "")
    return Row(name, 1.3, "pairs", STEPS * config.batch_size, *times)
