"""`make test`: every check in order, all of them even when one fails, and one closing summary."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chatlib.book import pages

WORK = pages.BUILD / "check"
CELL_SECONDS = 900


@dataclass
class Step:
    """A command, and how it ended: the exit status, the last line it printed, its seconds."""

    name: str
    command: list[str]
    status: int | None = None
    last: str = ""
    seconds: float = 0.0


def steps() -> list[Step]:
    """All checks; the later a step, the longer it takes."""
    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-p", "no:cacheprovider"]
    # Files go to two workers in the order of collection, in which the longest come early.
    parallel = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    nbval = ["--nbval", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}"]
    notebooks = [str(path.relative_to(pages.ROOT)) for path in pages.notebooks()]
    return [
        Step("lint", [*python, "ruff", "check", "."]),
        Step("format", [*python, "ruff", "format", "--check", "."]),
        Step("spelling", [*python, "codespell_lib"]),
        Step("book", [*pytest, "tests/book", "-m", "book"]),
        Step(
            "unit tests", [*pytest, "tests", *parallel, "-m", "not launch and not book and not gpu"]
        ),
        Step("launch tests", [*pytest, "tests", *parallel, "-m", "launch and not gpu"]),
        Step("notebooks", [*pytest, *nbval, f"--timeout={CELL_SECONDS}", *notebooks]),
    ]


def run(step: Step) -> None:
    """Run the command, pass its output on, and note the end."""
    print(f"\n=== {step.name}: {' '.join(step.command[1:])}", flush=True)
    environment = {**os.environ, "CHATLIB_RUNS": str(WORK / "runs"), "PYTHONUNBUFFERED": "1"}
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
        for line in process.stdout:
            print(line, end="", flush=True)
            step.last = line.strip().strip("= ") or step.last
    step.status, step.seconds = process.returncode, time.monotonic() - began


def main() -> int:
    """Run all steps (or those named on the command line) and print the summary."""
    shutil.rmtree(WORK, ignore_errors=True)
    chosen = [step for step in steps() if not sys.argv[1:] or step.name in sys.argv[1:]]
    for step in chosen:
        run(step)
    failed = [step.name for step in chosen if step.status]
    print("\n=== summary")
    for step in chosen:
        word = "FAILED" if step.status else "passed"
        print(f"{word}  {step.name:13} {step.seconds:6.0f} s  {step.last[:90]}")
    total = sum(step.seconds for step in chosen)
    print(f"{'FAILED: ' + ', '.join(failed) if failed else 'all passed'} in {total / 60:.1f} min")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
