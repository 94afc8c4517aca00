"""The card at the foot of a page: which code, machine and runs its figures come from."""

from __future__ import annotations

from dataclasses import dataclass

from chatlib.lab.stored_results import stored
from chatlib.runs import code
from chatlib.runs.provenance import origin, versions
from chatlib.runs.store import Run

SHOWN = ("python", "torch", "deepspeed", "transformers")  # of the versions
HEAD = "| figures of | seed | launches took | code | state |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Card:
    """Where a page's figures come from; a notebook shows it as a table."""

    rows: tuple[tuple[str, ...], ...]
    live: int
    footer: str

    def _repr_markdown_(self) -> str:
        lines = [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([HEAD, *lines, "", self.footer])

    def __repr__(self) -> str:
        return f"runs of this build: {self.live}; stored results: {len(self.rows) - self.live}"


def card(*runs: Run, results: tuple[str, ...] = ()) -> Card:
    """Runs and stored results that a page drew on, the machine and the versions that ran it.

    A run's row has its seed, its seconds with launch and the fingerprint of the code that trained;
    a stored result's the seconds of all of its runs and whether the code has changed since.
    """
    rows = [_of_run(run) for run in runs] + [_of_stored(name) for name in results]
    now = origin()
    found = ", ".join(f"{name} {versions()[name]}" for name in SHOWN)
    footer = (
        f"This page ran on {now['cores']} cores of {now['cpu']}, commit {str(now['commit'])[:9]}"
    )
    return Card(tuple(rows), len(runs), f"{footer}, with {found}.")


def _of_run(run: Run) -> tuple[str, ...]:
    """Name, seed, seconds, code and state of a run."""
    manifest = run.manifest
    mark = code.digest(manifest["code"])[:8]
    seconds = f"{manifest['seconds']:.0f} s"
    return f"run `{run.name}`", str(manifest["seed"]), seconds, mark, run.status


def _of_stored(name: str) -> tuple[str, ...]:
    """The same of stored figures."""
    found = stored(name)
    prints = ", ".join(f"{stage} {mark[:8]}" for stage, mark in sorted(found.code.items()))
    state = f"stored; changed since: {', '.join(found.changed)}" if found.changed else "stored"
    seeds = ", ".join(map(str, found.figures.get("seed_list", ()))) or "several"
    seconds = found.figures.get("launch_seconds", found.seconds)  # of a resumed experiment: of all
    return f"`make results {name}`", seeds, f"{seconds:.0f} s", prints, state
