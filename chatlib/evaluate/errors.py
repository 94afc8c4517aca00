"""What goes wrong, by intent and by type, read off the parts of the gold judge's scores."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from chatlib.data import shop

# error type: (part of the judge's score, below this value it is an error). "too long" is more than
# 26 words; it also counts answers of two words or fewer, to which the judge gives no concision.
ERRORS = {
    "incomplete": ("facts", 2.0),
    "invented fact": ("invented", 0.0),
    "leak": ("leak", 0.0),
    "wrong refusal": ("refusal", 0.0),
    "no salutation": ("salutation", 1.0),
    "rude": ("rudeness", 0.0),
    "no closing": ("closing", 0.5),
    "too long": ("concision", 0.5),
    "repetition": ("repetition", 0.0),
    "unfinished": ("unfinished", 0.0),
}
NOT_FLUENT = "not fluent"


def judged(metas: Sequence[dict], answers: Sequence[str]) -> pd.DataFrame:
    """The gold judge's verdict on each answer: one row an answer.

    Columns ``intent``, ``gold`` (the total, at most 4), ``well_formed``, ``answer``, and one
    for each part of the score (``fluency`` is 0 where the gate stayed open).
    """
    if len(metas) != len(answers):
        raise ValueError(f"{len(metas)} prompts but {len(answers)} answers; give one answer each")
    rows = []
    for meta, answer in zip(metas, answers):
        score = shop.judge(meta, answer)
        head = {"intent": meta["intent"], "gold": score.total, "well_formed": score.well_formed}
        rows.append(head | {"answer": answer, "fluency": 0.0} | score.parts)
    return pd.DataFrame(rows)


def errors(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Which errors each answer makes: one boolean column an error type.

    An answer that the fluency gate stopped is "not fluent" and nothing more: its other parts
    were not judged on their merits.
    """
    fluent = verdicts["fluency"] >= 0
    found = {
        name: fluent & (verdicts[part] < least - 1e-9) for name, (part, least) in ERRORS.items()
    }
    return pd.DataFrame(found | {NOT_FLUENT: ~fluent})


def error_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Share of the answers with each error: one row an intent and one for ``all``.

    Columns: the error types, most frequent first, and ``n`` answers.
    """
    found = errors(verdicts)
    order = found.mean().sort_values(ascending=False, kind="stable").index
    found = found[order]
    table = found.groupby(verdicts["intent"]).mean()
    table.loc["all"] = found.mean()
    counts = verdicts["intent"].value_counts()
    return table.assign(n=[*counts[table.index[:-1]], len(verdicts)])


def components(verdicts: pd.DataFrame) -> pd.Series:
    """Mean of every part of the gold reward; they add up to the mean gold reward."""
    parts = [part for part, _ in ERRORS.values()]
    return verdicts[[*parts, "fluency"]].mean()
