"""`make test` and `make check`: checks in order, all of them even when one fails, and a summary.

Finished runs of the pages are kept in `_build/check/runs` and found again by the next `make test`
of the same code; where CI is set (and with --fresh) everything is trained anew.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chatlib.book import execute, pages

WORK = pages.BUILD / "check"
STAMP = "code.txt"  # in the folder of runs: of which code they are
CELL_SECONDS = 900
# Set by hand, they play another processor: its last digits are not these, so its models are others.
PROCESSOR = ("ATEN_CPU_CAPABILITY", "MKL_CBWR")
# `make check` leaves out the rooms whose unit tests train or start something.
FAST = [
    *("tests/maths", "tests/settings", "tests/runs", "tests/data", "tests/launch"),
    *("tests/lab", "tests/evaluate", "tests/notebooks", "tests/test_walls.py"),
    *("tests/serve/test_chat.py", "tests/serve/test_terminal.py"),  # no server, browser, llama.cpp
]


@dataclass
class Step:
    """A command, and how it ended: the exit status, the last line it printed, its seconds."""

    name: str
    command: list[str]
    targets: tuple[str, ...] = ("test",)  # of `make` that run it
    status: int | None = None
    last: str = ""
    seconds: float = 0.0


def steps() -> list[Step]:
    """All checks; the later a step, the longer it takes."""
    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-p", "no:cacheprovider", "-rs"]
    # Files go to two workers in the order of collection, in which the longest come early.
    parallel = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    nbval = ["--nbval", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}"]
    notebooks = [str(path.relative_to(pages.ROOT)) for path in pages.executable(pages.notebooks())]
    unit, launch = (["-m", which] for which in ("not launch and not book", "launch"))
    both = ("test", "check")
    return [
        Step("lint", [*python, "ruff", "check", "."], both),
        Step("format", [*python, "ruff", "format", "--check", "."], both),
        Step("spelling", [*python, "codespell_lib"], both),
        Step("types", [*python, "mypy"], both),
        Step("fast", [*pytest, *FAST, *parallel, *unit], ("check",)),
        Step("stored", [*python, "chatlib.book", "stale"]),  # lists; recomputing takes an hour
        Step("book", [*pytest, "tests/book", "-m", "book"]),
        Step("unit", [*pytest, "tests", *parallel, *unit]),
        Step("launch", [*pytest, "tests", *parallel, *launch]),
        # One after the other: two at a time took nine tenths as long and disturb pages that time.
        Step("notebooks", [*pytest, *nbval, f"--timeout={CELL_SECONDS}", *notebooks]),
    ]


def chosen(names: list[str], target: str) -> list[Step]:
    """The steps named; without names those of a target of `make`."""
    return [step for step in steps() if (step.name in names if names else target in step.targets)]


def code() -> str:
    """Fingerprint of what a run's content may hang on: syntax trees, versions, processor played."""
    found = hashlib.sha256((pages.ROOT / ".ci" / "constraints.txt").read_bytes())
    found.update(repr([os.environ.get(name) for name in PROCESSOR]).encode())
    for path in sorted((pages.ROOT / "chatlib").rglob("*.py")):
        found.update(str(path.relative_to(pages.ROOT)).encode())
        found.update(ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode())
    return found.hexdigest()


def prepare(runs: Path, fresh: bool) -> None:
    """Keep the finished runs in a folder when they are of this code; remove all others."""
    now, stamp = code(), runs / STAMP
    if fresh or not stamp.is_file() or stamp.read_text(encoding="utf-8") != now:
        shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True, exist_ok=True)
    for directory in [path for path in runs.iterdir() if path.is_dir()]:
        manifest = directory / "manifest.json"
        if manifest.is_file() and json.loads(manifest.read_bytes()).get("status") == "complete":
            print(f"reused: {directory.name}")
        else:
            shutil.rmtree(directory)
    stamp.write_text(now, encoding="utf-8")


def run(step: Step, runs: Path) -> None:
    """Run the command, pass its output on, and note the end."""
    print(f"\n=== {step.name}: {' '.join(step.command[1:])}", flush=True)
    environment = os.environ | execute.environment()
    environment |= {"CHATLIB_RUNS": str(runs), "PYTHONUNBUFFERED": "1"}
    # What is stored came from this profile on CPUs, whatever cards there are here.
    environment |= {"CHATLIB_PROFILE": "laptop", "CHATLIB_DEVICE": "cpu"}
    began = time.monotonic()
    with subprocess.Popen(
        step.command,
        cwd=pages.ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            step.last = line.strip().strip("= ") or step.last
    step.status, step.seconds = process.returncode, time.monotonic() - began


def summary(done: list[Step]) -> bool:
    """Print how each step ended; whether all passed."""
    failed = [step.name for step in done if step.status]
    print("\n=== summary")
    for step in done:
        word = "FAILED" if step.status else "passed"
        print(f"{word}  {step.name:9} {step.seconds:6.0f} s  {step.last[:90]}")
    total = sum(step.seconds for step in done)
    print(f"{'FAILED: ' + ', '.join(failed) if failed else 'all passed'} in {total / 60:.1f} min")
    return not failed


def arguments() -> argparse.Namespace:
    """What the command line asks for; an unknown name of a step ends in a sentence."""
    parser = argparse.ArgumentParser(
        prog=".ci/check.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [step.name for step in steps()]
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"one of {', '.join(names)}")
    parser.add_argument("--fast", action="store_true", help="the inner loop: `make check`")
    parser.add_argument("--list", action="store_true", help="print each step and its command")
    parser.add_argument(
        "--fresh", action="store_true", help="train anew, as always where CI is set"
    )
    asked = parser.parse_args()
    if unknown := [name for name in asked.steps if name not in names]:
        parser.error(f"no step {', '.join(unknown)}; there are {', '.join(names)}")
    return asked


def main() -> int:
    """Run the chosen steps and print the summary; 1 when one of them failed."""
    asked, runs = arguments(), WORK / "runs"
    todo = chosen(asked.steps, "check" if asked.fast else "test")
    if asked.list:
        print("\n".join(f"{step.name:9} {' '.join(step.command[1:])}" for step in todo))
        return 0
    if not asked.fast:
        prepare(runs, asked.fresh or "CI" in os.environ)
    for step in todo:
        run(step, runs)
    return 0 if summary(todo) else 1


if __name__ == "__main__":
    sys.exit(main())
