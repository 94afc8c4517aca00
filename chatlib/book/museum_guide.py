"""A tour of the museum (chapter 11): the stored curves of every mistake beside the healthy runs'.

Patients are called by letters, as whoever looks at curves does not know the mistake either.
"""

from __future__ import annotations

import re
import string
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatlib.book import museum
from chatlib.evaluate import strangeness

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CITATION = re.compile(r" \{cite:p\}`[^`]*`")  # MyST, which printed text does not render
AT_ONCE, LATER, ANSWERS, NEVER = "at once", "later", "in the answers only", "nowhere"


@dataclass(frozen=True)
class Patient:
    """A run with a mistake, what its curves and its answers say, and the healthy runs like it."""

    letter: str
    exhibit: museum.Exhibit
    run: Mapping[str, Any]  # curves and after, as stored
    healthy: Sequence[Mapping[str, Any]]

    @property
    def strange(self) -> dict[str, float]:
        """The traits of its curves that chance does not explain, by how far; see `strangeness`."""
        return strangeness.strange(self.run["curves"], [one["curves"] for one in self.healthy])

    @property
    def strange_answers(self) -> dict[str, float]:
        """The same of what its answers were worth, judged without a mistake after training."""
        if not self.run["after"]:
            return {}
        own, *others = (
            {name: [x] for name, x in one["after"].items()} for one in (self.run, *self.healthy)
        )
        found = strangeness.strange(own, others)
        return {name.split(",")[0]: x for name, x in found.items()}

    @property
    def seen(self) -> str:
        """Where it shows: in the curves, at once or later; in the answers only; nowhere."""
        if self.strange:
            return AT_ONCE if any(k.endswith("early") for k in self.strange) else LATER
        return ANSWERS if self.strange_answers else NEVER


def patients(figures: Mapping[str, Any]) -> list[Patient]:
    """All runs with a mistake, from the stored figures; letters follow the collection's order."""
    return case(figures, *(one.name for one in museum.EXHIBITS))


def case(figures: Mapping[str, Any], *names: str) -> list[Patient]:
    """A few runs for an exercise, lettered A, B, ... in the order named.

    Raises `ValueError` for a name that the museum does not have.
    """
    return [
        Patient(letter, one, figures["mutant"][one.name], figures["healthy"][one.recipe])
        for letter, one in zip(string.ascii_uppercase, map(museum.exhibit, names))
    ]


def chart(ward: Sequence[Patient], *columns: str) -> Figure:
    """Curves of patients of one recipe on the grey band of the healthy runs, a panel a column."""
    from chatlib.lab import plots

    healthy = [one["curves"] for one in ward[0].healthy]
    band = {column: [curves[column] for curves in healthy] for column in columns}
    return plots.patients(band, {patient.letter: patient.run["curves"] for patient in ward})


def answers(ward: Sequence[Patient]) -> pd.DataFrame:
    """What the judge says of the answers after training: the healthy runs first, a row a run."""
    import pandas

    rows = {f"healthy {i}": one["after"] for i, one in enumerate(ward[0].healthy)}
    return pandas.DataFrame.from_dict(
        rows | {patient.letter: patient.run["after"] for patient in ward}, orient="index"
    )


def false_alarms(figures: Mapping[str, Any]) -> tuple[int, int]:
    """(healthy runs that look strange beside the others of their recipe, healthy runs)."""
    alarms, runs = 0, 0
    for healthy in figures["healthy"].values():
        for i, one in enumerate(healthy):
            others = [other["curves"] for j, other in enumerate(healthy) if j != i]
            alarms += bool(strangeness.strange(one["curves"], others))
            runs += 1
    return alarms, runs


def without(patient: Patient, curve: str) -> dict[str, float]:
    """`Patient.strange` for somebody who does not see one of the curves."""
    runs = [
        {name: x for name, x in one["curves"].items() if name != curve}
        for one in (patient.run, *patient.healthy)
    ]
    return strangeness.strange(runs[0], runs[1:])


def complaint(patient: Patient, most: int = 2) -> str:
    """One line: the strangest traits of a run, each by how many times it is over the limit."""
    found = [f"{name} {times:.0f}x" for name, times in list(patient.strange.items())[:most]]
    return f"{patient.letter}  {'; '.join(found) or 'nothing'}"


def plaque(patient: Patient) -> str:
    """What stands beside an exhibit: its mistake, the lines, who published it, what finds it."""
    one = patient.exhibit
    parts = [f"{patient.letter}: {one.title}", *wrapped(one.cause, "")]
    for line in one.lines:
        parts += wrapped(line, "      ") if line[0] in "-+" else [line]
    if one.published:
        parts += wrapped(f"reported: {CITATION.sub('', one.published)}", "  ")
    file, _, test = one.test.partition("::")
    return "\n".join([*parts, f"found by {file}", *wrapped(f"  {test}", "    ")])


def wrapped(text: str, indent: str) -> list[str]:
    """Lines of at most 79 characters."""
    return textwrap.wrap(text, 79, subsequent_indent=indent, break_on_hyphens=False)


def suspects(found: Sequence[Patient]) -> pd.DataFrame:
    """Symptom and who shows it: a row for each trait and direction, the commonest first."""
    import pandas

    table: dict[str, list[str]] = {}
    for patient in found:
        known = [strangeness.traits(one["curves"]) for one in patient.healthy]
        own = strangeness.traits(patient.run["curves"])
        for trait in patient.strange:
            mean = sum(one[trait] for one in known) / len(known)
            way = "high" if own[trait] > mean else "low"
            stage = "SFT" if patient.exhibit.recipe == "sft" else patient.exhibit.recipe
            table.setdefault(f"{stage}: {trait}, {way}", []).append(patient.letter)
    rows = sorted(table.items(), key=lambda kv: (-len(kv[1]), kv[0]))
    columns = {"symptom": [k for k, _ in rows], "suspects": [" ".join(v) for _, v in rows]}
    return pandas.DataFrame(columns)
