"""Who can say how good an answer really is: of a corpus its own judge, of other data nobody.

What judges is handed to the stages; no stage knows a corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatlib.data import corpora
from chatlib.data.corpora import Verdict
from chatlib.data.schema import Record
from chatlib.settings.corpora import CORPORA
from chatlib.settings.stages import Source


@dataclass(frozen=True)
class Judge:
    """Knows the truth about the prompts of one corpus, given by its name."""

    corpus: str

    @property
    def temperature(self) -> float:
        """The noise of the corpus's annotators, in the unit of the gold reward."""
        return corpora.corpus(self.corpus).TEMPERATURE

    def knows(self, meta: dict) -> bool:
        """Whether a record with this ``meta`` is of the judge's corpus."""
        return corpora.corpus(self.corpus).knows(meta)

    def verdict(self, meta: dict, answer: str) -> Verdict:
        """The verdict on an answer to the prompt of the record with this ``meta``."""
        return corpora.corpus(self.corpus).judge(meta, answer)


def of(sources: Iterable[Source]) -> list[Judge]:
    """The judges of some sources, looked up by the sources' names; none for other data."""
    return [Judge(source.name) for source in sources if source.name in CORPORA]


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
            f"{asked!r}; train on a corpus with a judge ({', '.join(CORPORA)}), or set reward model"
        )


def noise(judges: Sequence[Judge], records: Sequence[Record]) -> float | None:
    """The annotators' noise, if one judge knows every record and the gold rewards stand there."""
    for judge in judges:
        if all(judge.knows(r.meta) and "gold" in r.meta for r in records):
            return judge.temperature
    return None
