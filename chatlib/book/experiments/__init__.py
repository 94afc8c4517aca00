"""The experiments of `make results NAME`: a module each, with `STAGES` and `results()`, and with
`CORPORA` where that is not the shop alone.

What takes several seeds is trained and evaluated here, part by part: a part that is finished, as a
run or as a file below `_build/results/parts`, is not computed again. Figures land in
`notebooks/results/NAME.json`, where pages find them by `lab.stored(NAME)`.

After an edit in a room that trains, `make confirm NAME` asks whether it changed a digit: the
experiment's `witnesses()`, parts that together take every path through the stages, are computed by
the code before and after, and where all digits are equal, the stored figures are marked as those of
today's code.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    "hard",
    "reasons",
    "uses",
    "real",
    "compression",
    "serving",
    "outlook",
)  # the modules of this folder
# What the code of a commit is asked; it has to be the one that trained.
WITNESS = """
import sys
from pathlib import Path
from chatlib.book import experiments
from chatlib.lab import results, stored_results
name, output = sys.argv[1:]
if changed := stored_results.stored(name).changed:
    stages = ", ".join(changed)
    sys.exit(f"that commit's {stages} did not train for {name}; name another: BASE=COMMIT")
results.write(Path(output), experiments.witnessed(name))
"""
MEASURED = ("seconds", "bytes", "launch_seconds")  # by clocks and meters: another day, another one
Witnesses = dict[tuple[str | int, ...], Callable[[], Any]]  # a place among the figures: how to
PARTS = pages.BUILD / "results" / "parts"


def make(name: str) -> Stored:
    """Compute an experiment and keep its figures. Raises `ValueError` for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"no experiment {name!r}; use one of {', '.join(NAMES)}")
    experiment = importlib.import_module(f"chatlib.book.experiments.{name}")
    corpora = getattr(experiment, "CORPORA", ("shop",))
    code = {stage: stored_results.fingerprint(stage, corpora) for stage in experiment.STAGES}
    with spent(name, code) as seconds:
        figures = experiment.results()
    return keep(name, figures, experiment.STAGES, seconds(), corpora=corpora)


@contextlib.contextmanager
def spent(name: str, code: dict[str, str]) -> Iterator[Callable[[], float]]:
    """Seconds of this call and of the earlier ones whose finished parts it finds.

    An experiment may be stopped and called again; what the figures cost is the sum. Calls under
    other training code computed other parts and do not count.
    """
    path, began = PARTS / f"{name}.spent.json", time.monotonic()
    known = results.read(path)
    before = known["seconds"] if known.get("code") == code else 0.0

    def seconds() -> float:
        return before + time.monotonic() - began

    try:
        yield seconds
    finally:
        results.write(path, {"code": code, "seconds": round(seconds(), 1)})


def confirm(name: str, base: str = "HEAD", at: Path = FOLDER) -> Stored:
    """Mark an experiment's figures as those of today's code if its witnesses say so.

    They are computed twice on this machine, by today's code and by that of the commit ``base``,
    which has to be the code that trained for the figures: another machine's last digits would
    differ without any edit. Raises `ValueError` with the first figure that is another one, and
    where ``base`` is other code; nothing is written then.
    """
    if name not in NAMES:
        raise ValueError(f"no experiment {name!r}; use one of {', '.join(NAMES)}")
    then, now = at_commit(base, name), witnessed(name)
    if found := difference(then, now):
        raise ValueError(f"{name}{found}; `make results {name}` renews the figures")
    return stored_results.confirm(stored(name, at), list(now), at)


def witnessed(name: str) -> dict[str, Any]:
    """The witnesses of an experiment by their places among its figures, computed by this code."""
    module = importlib.import_module(f"chatlib.book.experiments.{name}")
    found = {".".join(map(str, place)): compute() for place, compute in module.witnesses().items()}
    return json.loads(json.dumps(results.plain(name, found)))


def at_commit(commit: str, name: str) -> dict[str, Any]:
    """`witnessed` by the code of a commit, in a work tree of its own below `_build`."""
    tree = pages.BUILD / "confirm" / "tree"
    git = [shutil.which("git") or "git", "-C", str(pages.ROOT), "worktree"]
    with contextlib.ExitStack() as end:
        _called([*git, "add", "--force", "--detach", str(tree), commit])
        end.callback(_called, [*git, "remove", "--force", str(tree)])
        output = tree.with_name(f"{name}.json")
        elsewhere = os.environ | {"PYTHONPATH": str(tree)}
        _called([sys.executable, "-c", WITNESS, name, str(output)], cwd=tree, env=elsewhere)
        return results.read(output)


def _called(command: list[str], **options: Any) -> None:
    """Run a command; `ValueError` with the last line that it said when it fails."""
    done = subprocess.run(command, text=True, stderr=subprocess.PIPE, **options)
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("\n")[2] or f"{command} failed")


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


def finished(config: Any) -> Run:
    """The run of a stage's settings, continued from its newest checkpoint if it was begun."""
    from chatlib.lab import launch

    return launch(config, resume=True)


def loaded(run: Run) -> tuple[Any, Any]:
    """(policy, tokenizer) of a finished run, without a bar of transformers' own."""
    from chatlib.train import models

    tokenizer = models.load_tokenizer(run.reference)
    with models.no_bar():
        return models.load_policy(run.reference, tokenizer), tokenizer


def flatness(run: Run) -> dict[str, list[list[float]]]:
    """(step, held-out loss) along a run, under `flat`: whether it was trained for long enough."""
    seen = run.metrics[["step", "held_out_loss"]].dropna()
    return {"flat": [[int(step), round(loss, 4)] for step, loss in seen.to_numpy()]}


def bracketed(values: Any) -> dict[str, float]:
    """The mean of some values with its interval, as it is stored."""
    import numpy as np

    from chatlib.evaluate import winrate

    return rounded(winrate.interval(np.asarray(values, dtype=float)))


def rounded(found: winrate.Interval | frontier.Fit) -> dict[str, float]:
    """An interval or a fit as it is stored: by name, four digits."""
    return {name: round(value, 4) for name, value in found._asdict().items()}
