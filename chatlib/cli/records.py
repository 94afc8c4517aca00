"""The commands that look at runs: list, show, follow and remove them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, TextIO

from tyro.conf import FlagCreatePairsOff, Positional, arg

from chatlib.launch.directory import claimed
from chatlib.runs import identity
from chatlib.runs.files import RunError
from chatlib.runs.recorder import read_metrics
from chatlib.runs.store import Run, all_runs, is_held

Name = Positional[Annotated[str, arg(metavar="RUN")]]
Names = Positional[Annotated[list[str], arg(metavar="RUN...", help_behavior_hint="")]]
POLL = 0.3  # seconds between two looks at a log that is followed


def find(name: str) -> Run:
    """The run of a name or of the beginning of one, in the folder of runs. Raises `RunError`."""
    wanted = name.removeprefix("run:")
    known = {run.name: run for run in all_runs()}
    found = [wanted] if wanted in known else [n for n in known if wanted and n.startswith(wanted)]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise RunError(f"{name!r} begins {', '.join(found)}; give more of the name")
    raise RunError(f"no run {name!r} in {identity.root()}; `chatlib runs` lists what is there")


def runs(json: FlagCreatePairsOff[bool] = False) -> int:
    """List the runs on this machine, finished or not.

    Args:
        json: a list of objects, for programs
    """
    rows = [row(run) for run in all_runs()]
    if json:
        print(dumps(rows))
        return 0
    for r in rows:
        spent = f"{r['seconds']:.0f} s" if r["seconds"] else "-"
        line = f"{r['name']:<20} {r['status']:<12} {r['step']:>6} steps {spent:>8}"
        print(f"{line}  {r['directory']}")
    if not rows:
        print(f"no runs in {identity.root()}")
    return 0


def row(run: Run) -> dict[str, Any]:
    """Name, status, last logged step, seconds and folder of a run."""
    steps = read_metrics(run.directory / "metrics.jsonl")
    return {
        "name": run.name,
        "status": run.status,
        "step": steps[-1]["step"] if steps else 0,
        "seconds": run.manifest.get("seconds"),
        "directory": str(run.directory),
    }


def show(run: Name, json: FlagCreatePairsOff[bool] = False) -> int:
    """Print what is known of a run: settings, manifest, data report, last figures.

    Args:
        run: a run's name, or the beginning of it
        json: one object, for programs
    """
    known = facts(find(run))
    if json:
        print(dumps(known))
        return 0
    for title, part in known.items():
        print(f"{title}")
        lines = part.items() if isinstance(part, dict) else [("", line) for line in part]
        for name, shown in lines:
            text = shown if isinstance(shown, str) else dumps(shown, indent=None)
            print(f"  {name:<28}{text}" if name else f"  {text}")
    return 0


def facts(run: Run) -> dict[str, Any]:
    """What `show` prints, by section."""
    manifest = run.manifest
    last: dict[str, Any] = {}
    for figures in read_metrics(run.directory / "metrics.jsonl"):
        last |= {name: figure for name, figure in figures.items() if figure is not None}
    return {
        "run": {**row(run), "model": str(run.model_dir) if run.complete else "not finished"},
        "settings": run.config,
        "manifest": {k: v for k, v in manifest.items() if k not in ("data_report", "status")},
        "data report": manifest.get("data_report") or ["none yet"],
        "last figures": last,
    }


def dumps(content: Any, indent: int | None = 1) -> str:
    """JSON for people and programs."""
    return json.dumps(content, indent=indent, ensure_ascii=False)


def logs(
    run: Name,
    follow: Annotated[FlagCreatePairsOff[bool], arg(aliases=["-f"])] = False,
    rank: Annotated[int, arg(metavar="R")] = 0,
) -> int:
    """Print what a rank of a run wrote.

    Args:
        run: a run's name, or the beginning of it
        follow: go on while the run lives
        rank: whose log
    """
    found = find(run)
    path = found.directory / "log" / f"rank{rank}.txt"
    while follow and is_held(found.directory) and not path.exists():
        time.sleep(POLL)
    if not path.exists():
        there = sorted(p.stem.removeprefix("rank") for p in path.parent.glob("rank*[0-9].txt"))
        having = f"it has those of rank {', '.join(there)}" if there else "no rank has started"
        raise RunError(f"{found.name} has no log of rank {rank}; {having}")
    with open(path, encoding="utf-8", errors="replace") as log:
        pass_on(log, found if follow else None)
    return 0


def pass_on(log: TextIO, live: Run | None) -> None:
    """Print a log to its end, or until the run that writes it has ended."""
    ended = False
    while not ended:
        ended = live is None or not is_held(live.directory)  # what comes after this is printed
        while text := log.read(1 << 16):
            print(text, end="", flush=True)
        if not ended:
            time.sleep(POLL)


def rm(runs: Names, yes: FlagCreatePairsOff[bool] = False) -> int:
    """Remove runs with their models and checkpoints; never one that is live.

    Args:
        runs: names, or their beginnings
        yes: do not ask
    """
    found = list(dict.fromkeys(find(name) for name in runs))
    if not found:
        raise ValueError("name the runs to remove; `chatlib runs` lists them")
    for run in found:
        require_removable(run.directory)
    names = ", ".join(run.name for run in found)
    if not yes and not agreed(f"remove {names} below {identity.root()}? [y/N] "):
        print("nothing was removed")
        return 1
    for run in found:
        with claimed(run.directory):  # a launch that begins now is told that it is in use
            shutil.rmtree(run.directory)
        print(f"removed {run.name}")
    return 0


def agreed(question: str) -> bool:
    """Ask in the terminal; no answer is a no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def require_removable(directory: Path) -> None:
    """Raise `RunError` for a live run, and for a link that leads out of the folder of runs."""
    if directory.is_symlink() or directory.resolve().parent != identity.root():
        raise RunError(f"{directory} is a link to another place; remove it there")
    if is_held(directory):
        raise RunError(f"{directory.name} is live; stop it before it is removed")
