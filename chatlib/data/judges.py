"""Who can say how good an answer really is: of the shop its own judge, of other data nobody.

A corpus that knows the truth about its prompts adds a `Judge` to `JUDGES` under the name that its
source has. What judges is handed to the stages; no stage knows a corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from chatlib.data import shop
from chatlib.data.schema import Record
from chatlib.settings.stages import Source


class Verdict(Protocol):
    """What a judge says of an answer: its gold reward, and whether its form is right."""

    @property
    def total(self) -> float:
        """The gold reward, in the judge's own unit."""

    @property
    def well_formed(self) -> bool:
        """Whether the answer has the form that the corpus asks for, whatever it says."""


class Judge(Protocol):
    """Knows the truth about the prompts of one corpus."""

    temperature: float  # noise of the corpus's annotators, in the unit of the gold reward

    def knows(self, meta: dict) -> bool:
        """Whether a record with this ``meta`` is of the judge's corpus."""

    def verdict(self, meta: dict, answer: str) -> Verdict:
        """The verdict on an answer to the prompt of the record with this ``meta``."""


class Shop:
    """The judge of the book's corpus; see `chatlib.data.shop.judge`."""

    temperature: float = shop.TEMPERATURE

    def knows(self, meta: dict) -> bool:
        """Whether a record is the shop's: its ``meta`` names an intent."""
        return "intent" in meta

    def verdict(self, meta: dict, answer: str) -> Verdict:
        """The gold judge's verdict."""
        return shop.judge(meta, answer)


JUDGES: dict[str, Judge] = {"shop": Shop()}


def of(sources: Iterable[Source]) -> list[Judge]:
    """The judges of some sources, looked up by the sources' names; none for other data."""
    return [JUDGES[source.name] for source in sources if source.name in JUDGES]


def verdicts(
    judges: Sequence[Judge], records: Sequence[Record], answers: Sequence[str]
) -> list[Verdict]:
    """The verdicts on those answers whose prompt a judge knows: of a blend, a part of them."""
    return [
        judge.verdict(record.meta, answer)
        for record, answer in zip(records, answers)
        for judge in judges
        if judge.knows(record.meta)
    ]


def require(judges: Sequence[Judge], records: Sequence[Record]) -> None:
    """Raise `ValueError` unless a judge knows the truth about every record."""
    unknown = [r for r in records if not any(judge.knows(r.meta) for judge in judges)]
    if unknown:
        asked = unknown[0].prompt[-1]["content"][:60]
        raise ValueError(
            f"reward gold: no judge knows {len(unknown)} of {len(records)} prompts, the first is "
            f"{asked!r}; train on a corpus with a judge ({', '.join(JUDGES)}), or set reward model"
        )


def noise(judges: Sequence[Judge], records: Sequence[Record]) -> float | None:
    """The annotators' noise, if one judge knows every record and the gold rewards stand there."""
    for judge in judges:
        if all(judge.knows(r.meta) and "gold" in r.meta for r in records):
            return judge.temperature
    return None
