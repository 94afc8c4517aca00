"""The experiments of `make results NAME`: a module each, with `STAGES` and `results()`.

What takes several seeds is trained and evaluated here, part by part: a part that is finished, as a
run or as a file below `_build/results/parts`, is not computed again. Figures land in
`notebooks/results/NAME.json`, where pages find them by `lab.stored(NAME)`.

After an edit in a room that trains, `make confirm NAME` asks whether it changed a digit: the
experiment's `witnesses()` are computed again, parts that together take every path through the
stages, and where all are as stored, the stored figures are marked as those of today's code.
"""

from __future__ import annotations

import functools
import importlib
import json
import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlib.book import pages
from chatlib.lab import results, stored_results
from chatlib.lab.stored_results import FOLDER, Stored, keep, stored

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
MEASURED = ("seconds", "bytes", "launch_seconds")  # by clocks and meters: another day, another one
Witnesses = dict[tuple[str | int, ...], Callable[[], Any]]  # a place among the figures: how to
PARTS = pages.BUILD / "results" / "parts"


def make(name: str) -> Stored:
    """Compute an experiment and keep its figures. Raises `ValueError` for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"no experiment {name!r}; use one of {', '.join(NAMES)}")
    experiment = importlib.import_module(f"chatlib.book.experiments.{name}")
    began = time.monotonic()
    figures = experiment.results()
    return keep(name, figures, experiment.STAGES, time.monotonic() - began)


def confirm(name: str, at: Path = FOLDER) -> Stored:
    """Compute an experiment's witnesses with today's code and mark its figures as confirmed.

    Raises `ValueError` with the first figure that is another one; nothing is written then.
    """
    if name not in NAMES:
        raise ValueError(f"no experiment {name!r}; use one of {', '.join(NAMES)}")
    kept = stored(name, at)
    witnesses = importlib.import_module(f"chatlib.book.experiments.{name}").witnesses()
    for place, compute in witnesses.items():
        then = functools.reduce(operator.getitem, place, kept.figures)
        now = json.loads(json.dumps(results.plain(name, compute())))
        if found := difference(then, now):
            where = ".".join(map(str, (name, *place)))
            raise ValueError(f"{where}{found}; `make results {name}` renews the figures")
        print(f"{name}: {'.'.join(map(str, place))} is as stored", flush=True)
    return stored_results.confirm(kept, [".".join(map(str, place)) for place in witnesses], at)


def difference(then: Any, now: Any) -> str:
    """The first place where two trees of figures differ, and how; what a clock says may."""
    if isinstance(then, dict) and isinstance(now, dict) and then.keys() == now.keys():
        pairs = {f".{name}": name for name in then if name not in MEASURED}
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = {f"[{i}]": i for i in range(len(then))}
    else:
        return "" if then == now else f" was {then!r} and is {now!r}"
    found = ((at, difference(then[key], now[key])) for at, key in pairs.items())
    return next((at + said for at, said in found if said), "")


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
