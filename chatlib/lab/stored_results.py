"""Figures that took several seeds or minutes: made by `make results NAME`, drawn by pages.

`notebooks/results/NAME.json` holds the figures, the fingerprint of the code of every stage that
trained for them, and where they were measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import chatlib
from chatlib.lab import results
from chatlib.runs import code
from chatlib.runs.provenance import origin

FOLDER = Path(chatlib.__file__).resolve().parents[1] / "notebooks" / "results"


@dataclass(frozen=True)
class Stored:
    """The figures of an experiment, and where they come from.

    ``code`` maps each stage that trained for them to the fingerprint of its code, on ``corpora``.
    """

    name: str
    figures: dict[str, Any]
    code: dict[str, str]
    seconds: float
    provenance: dict[str, Any]
    corpora: tuple[str, ...] = ("shop",)

    @property
    def changed(self) -> list[str]:
        """The stages whose code is no longer the one that trained for these figures."""
        now = {stage: fingerprint(stage, self.corpora) for stage in self.code}
        return sorted(stage for stage in now if now[stage] != self.code[stage])


def fingerprint(stage: str, corpora: Iterable[str] = ("shop",)) -> str:
    """One hash of all the code that trains a stage on some corpora."""
    return code.digest(code.code_of(stage, corpora))


def keep(
    name: str,
    figures: dict[str, Any],
    stages: tuple[str, ...],
    seconds: float,
    at: Path = FOLDER,
    corpora: tuple[str, ...] = ("shop",),
) -> Stored:
    """Write the figures of an experiment with the code of its stages, and return them."""
    prints = {stage: fingerprint(stage, corpora) for stage in stages}
    plain, took = results.plain(name, figures), round(seconds, 1)
    found = Stored(name, plain, prints, took, origin(), corpora)
    results.write(at / f"{name}.json", asdict(found))
    return found


def confirm(found: Stored, parts: list[str], at: Path = FOLDER) -> Stored:
    """Write that today's code gives these figures; ``parts`` are those computed again for it.

    Where and when all of them were measured stays in the provenance, under which it says so.
    """
    now = origin()
    said = {"commit": now["commit"], "date": now["date"], "parts": parts}
    prints = {stage: fingerprint(stage, found.corpora) for stage in found.code}
    found = replace(found, code=prints, provenance=found.provenance | {"confirmed": said})
    results.write(at / f"{found.name}.json", asdict(found))
    return found


def stored(name: str, at: Path = FOLDER) -> Stored:
    """The stored figures of an experiment. Raises `ValueError` when there are none."""
    path = at / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in at.glob("*.json"))) or "none"
        raise ValueError(
            f"no stored figures {name!r} (there are: {there}); run `make results {name}`"
        )
    found = results.read(path)
    return Stored(**found | {"corpora": tuple(found.get("corpora", ["shop"]))})


def everything(at: Path = FOLDER) -> list[Stored]:
    """All stored figures of experiments, by name; what `make gpu` leaves is none of them."""
    known = [path for path in sorted(at.glob("*.json")) if "code" in results.read(path)]
    return [stored(path.stem, at) for path in known]
