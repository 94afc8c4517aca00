"""PPO paid by the gold judge itself: the control that takes the reward model out of the game.

    with mutated("chatlib.train.ppo.make_experience", PAYS):
        launch(config)

A launch inside replaces the reward model's score by the judge's and nothing else: critic, KL
penalty, prompts and draws are those of the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from chatlib.data import judges, template
from chatlib.data.schema import Record

PAYS = f"{__name__}:make_experience"
# Mean and standard deviation of the gold reward over answers of the book's SFT model, rounded: a
# reward model's score has 0 and 1 there, so that beta and the critic meet rewards of one scale.
MEAN, SPREAD = 1.8, 1.6


def make_experience(
    config: Any,
    nets: Any,
    prompts: list[list[int]],
    answers: list[list[int]],
    asked: Sequence[Record] = (),
) -> Any:
    """PPO's own `make_experience`, but ``score`` and ``paid`` (batch,) are (gold - MEAN) / SPREAD.

    ``asked`` are the prompts' records, which the judge needs. Raises `ValueError` when a record
    is none that the judge of the configuration's sources knows.
    """
    r = make_experience.__wrapped__(  # type: ignore[attr-defined]  # `mutations.apply` sets it
        config, nets, prompts, answers, asked
    )
    texts = template.decode(nets.tokenizer, answers)
    verdicts = judges.verdicts(judges.of(config.sources), asked, texts)
    if len(verdicts) != len(answers):
        raise ValueError(
            f"{len(answers)} answers but {len(verdicts)} verdicts; the gold judge can pay only for "
            "prompts of its own corpus, so take no other source"
        )
    gold = torch.tensor([verdict.total for verdict in verdicts], device=r.score.device)
    r.score = r.paid = (gold - MEAN) / SPREAD
    return r
