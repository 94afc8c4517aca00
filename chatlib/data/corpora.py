"""What a corpus of the book's own has to offer: prompts without end, answers, and a judge.

Each is a module; `chatlib.settings.corpora` has their names. They are imported by name, so that a
run hangs on the code of the corpora that its sources name and on no other's.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from random import Random
from typing import Protocol, cast

from chatlib.data.schema import Dialogue, Preference
from chatlib.settings.corpora import CORPORA


class Scenario(Protocol):
    """A situation in which a prompt is written."""

    def messages(self) -> list[dict]:
        """The prompt: messages that end with the user's turn."""

    def meta(self) -> dict:
        """What the judge has to know, as plain data."""


class Verdict(Protocol):
    """What a judge says of an answer: its gold reward, and whether its form is right."""

    @property
    def total(self) -> float:
        """The gold reward, in the judge's own unit."""

    @property
    def well_formed(self) -> bool:
        """Whether the answer has the form that the corpus asks for, whatever it says."""


class Corpus(Protocol):
    """The functions of a corpus's module; all of it is deterministic from a seed."""

    TEMPERATURE: float  # of the annotators: P(a preferred) = sigmoid((gold_a - gold_b) / T)

    def scenarios(self, seed: int, held_out: bool = False) -> Iterator[Scenario]:
        """An endless stream; ``held_out`` takes words that are never trained on."""

    def demonstration(self, rng: Random, s: Scenario, /) -> Dialogue:
        """The scenario with an answer of mixed quality."""

    def preference(self, rng: Random, s: Scenario, /) -> Preference:
        """The scenario with two answers, ordered by a simulated annotator."""

    def knows(self, meta: dict) -> bool:
        """Whether a record with this ``meta`` is of the corpus."""

    def judge(self, meta: dict, text: str) -> Verdict:
        """The verdict on an answer to the prompt of the record with this ``meta``."""


def corpus(name: str) -> Corpus:
    """The module of a corpus. Raises `KeyError` for a source that is none."""
    return cast(Corpus, importlib.import_module(f"chatlib.data.{CORPORA[name]}"))
