"""A model's report from the shop: gold reward with its parts, grounding, overlap, intervals."""

from __future__ import annotations

import pandas as pd

from chatlib.data import shop
from chatlib.evaluate import overlap, policy
from chatlib.evaluate.errors import ERRORS
from chatlib.evaluate.winrate import Interval, interval
from chatlib.settings.device import accelerator

COLUMNS = ["gold", "well_formed", *(part for part, _ in ERRORS.values()), "fluency"]


def measure(reference: str, n: int, seed: int = 0) -> pd.DataFrame:
    """One sampled answer of a model to each of ``n`` scenarios that no stage trains on.

    One row a figure, columns ``value``, ``low``, ``high`` (95 %, bootstrap over the answers) and
    ``n``: the gold reward (at most 4), the share of well-formed answers, the parts that add up to
    the gold reward, and sentence BLEU and ROUGE (0 to 100) against one human-like answer each.
    """

    from chatlib.train import models

    dialogues = shop.demonstrations(n, policy.UNSEEN)
    cases = policy.scenarios(n)
    with models.no_bar():
        tokenizer = models.load_tokenizer(reference)
        model = models.load_policy(reference, tokenizer)
    verdicts = policy.assess(model.eval().to(accelerator()), tokenizer, cases, seed)
    parts = verdicts[COLUMNS].astype(float)
    overlaps = overlap.per_answer(list(verdicts["answer"]), [d.answer for d in dialogues])
    rows = {name: interval(column) for name, column in [*parts.items(), *overlaps.items()]}
    return pd.DataFrame.from_dict(
        {name: found._asdict() for name, found in rows.items()}, orient="index"
    )


def side_by_side(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Reports of several models as text, one column a model: ``value [low, high]``."""
    return pd.DataFrame(
        {
            name: {index: str(Interval(**row)) for index, row in table.to_dict("index").items()}
            for name, table in tables.items()
        }
    )
