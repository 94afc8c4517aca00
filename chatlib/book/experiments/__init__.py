"""The experiments of `make results NAME`: a module each, with `STAGES` and `results()`.

What takes several seeds is trained and evaluated here, part by part: a part that is finished, as a
run or as a file below `_build/results/parts`, is not computed again. Figures land in
`notebooks/results/NAME.json`, where pages find them by `lab.stored(NAME)`.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chatlib.book import pages
from chatlib.lab import results
from chatlib.lab.stored_results import Stored, keep

if TYPE_CHECKING:
    from chatlib.evaluate import frontier, winrate
    from chatlib.lab import Run

NAMES = (
    "ppo",
    "bands",
    "overoptimisation",
    "scaling",
    "alternatives",
    "museum",
    "answers",
)  # the modules of this folder
PARTS = pages.BUILD / "results" / "parts"


def make(name: str) -> Stored:
    """Compute an experiment and keep its figures. Raises `ValueError` for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"no experiment {name!r}; use one of {', '.join(NAMES)}")
    experiment = importlib.import_module(f"chatlib.book.experiments.{name}")
    began = time.monotonic()
    figures = experiment.results()
    return keep(name, figures, experiment.STAGES, time.monotonic() - began)


def part(key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of one part: read where they were computed before, else computed and said.

    ``key`` has to hold everything that the figures hang on: the names of the runs (which stand for
    settings and code), the number of prompts, the seed.
    """
    path = PARTS / f"{key}.json"
    if path.is_file():
        return results.read(path)
    began = time.monotonic()
    figures = compute()
    results.write(path, figures)
    print(f"{key}: done in {time.monotonic() - began:.0f} s", flush=True)
    return figures


def loaded(run: Run) -> tuple[Any, Any]:
    """(policy, tokenizer) of a finished run, without a bar of transformers' own."""
    from chatlib.train import models

    tokenizer = models.load_tokenizer(run.reference)
    with models.no_bar():
        return models.load_policy(run.reference, tokenizer), tokenizer


def bracketed(values: Any) -> dict[str, float]:
    """The mean of some values with its interval, as it is stored."""
    import numpy as np

    from chatlib.evaluate import winrate

    return rounded(winrate.interval(np.asarray(values, dtype=float)))


def rounded(found: winrate.Interval | frontier.Fit) -> dict[str, float]:
    """An interval or a fit as it is stored: by name, four digits."""
    return {name: round(value, 4) for name, value in found._asdict().items()}
