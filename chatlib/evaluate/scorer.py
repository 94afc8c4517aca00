"""A reward model at work: scores of answers, without training anything (chapters 4 to 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chatlib.settings.device import accelerator


@dataclass
class Scorer:
    """A loaded reward model; its scores have mean 0 and standard deviation 1 on SFT answers."""

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)

    def score(
        self, prompts: Sequence[list[dict]], answers: Sequence[str], batch_size: int = 64
    ) -> np.ndarray:
        """The score of each answer to its prompt, read at the end token. (N,)

        ``prompts`` are conversations that end with the user's turn. Raises ValueError when
        their number is not the answers'.
        """
        import torch

        from chatlib.data import collate, template
        from chatlib.train.models import TokenScorer

        if len(prompts) != len(answers):
            raise ValueError(f"{len(prompts)} prompts but {len(answers)} answers; give one each")
        opened = template.encode_prompts(self.tokenizer, list(prompts))
        closed = template.encode_answers(self.tokenizer, list(prompts), list(answers))
        rows = [prompt + answer for prompt, answer in zip(opened, closed)]
        scores: list[float] = []
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            ids, _ = collate.pad(part, self.tokenizer.pad_token_id)
            last = torch.zeros_like(ids)
            last[range(len(part)), [len(row) - 1 for row in part]] = 1
            device = next(self.model.parameters()).device
            with torch.inference_mode():
                scores += TokenScorer(self.model)(ids.to(device), last.to(device)).tolist()
        return np.asarray(scores)


def load(reference: object) -> Scorer:
    """Load a finished reward `Run`, a model folder, ``run:NAME`` or ``hub:NAME[@REVISION]``."""
    from chatlib.train import models

    place = str(getattr(reference, "reference", reference))
    with models.no_bar():
        tokenizer = models.load_tokenizer(place)
        model = models.load_scorer(place, tokenizer).eval()
    return Scorer(model.to(accelerator()), tokenizer)
