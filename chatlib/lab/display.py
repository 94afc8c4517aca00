"""Live progress of a launch: one bar with one figure, in place, and nothing left behind.

`$CHATLIB_PROGRESS` picks the way: `bar`, `plain` (a line every few seconds) or `none`; by
default a terminal gets the bar, a live notebook the bar, another stream plain lines, and a
notebook executed by nbconvert or nbval nothing, so that stored outputs stay the same.
`$CHATLIB_PROGRESS_FILE` names a file to which plain lines are appended besides.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

FIGURES = ("loss", "score", "kl", "gold")  # shown when a step has them


class Progress:
    """Shows the newest row of the metrics."""

    def __init__(self, name: str, steps: int, mode: str):
        self.name, self.steps, self.mode = name, steps, mode
        self.file = os.environ.get("CHATLIB_PROGRESS_FILE")
        self.last_line = 0.0
        self.bar = None
        if mode == "bar":
            from tqdm import tqdm

            self.bar = tqdm(total=steps, desc=name, leave=False, dynamic_ncols=True)

    def update(self, metrics: list[dict]) -> None:
        """Show `metrics[-1]`."""
        row = metrics[-1]
        if self.bar is not None:
            self.bar.set_postfix_str(figures(row), refresh=False)
            self.bar.update(row["step"] - self.bar.n)
        if time.monotonic() - self.last_line < 5 and row["step"] < self.steps:
            return
        self.last_line = time.monotonic()
        line = f"{self.name} step {row['step']}/{self.steps} {figures(row)}"
        if self.mode == "plain":
            print(line, file=sys.stderr, flush=True)
        if self.file:
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def figures(row: dict) -> str:
    """The figures worth watching, as text."""
    return " ".join(f"{k} {row[k]:.3f}" for k in FIGURES if isinstance(row.get(k), float))


def detect() -> str:
    """The way that suits where the output goes."""
    if os.environ.get("CHATLIB_PROGRESS"):
        return os.environ["CHATLIB_PROGRESS"]
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:  # who executes a notebook unattended allows no input
        return "bar" if getattr(kernel, "_allow_stdin", False) else "none"
    return "bar" if sys.stderr.isatty() else "plain"


@contextlib.contextmanager
def progress(name: str, steps: int) -> Iterator[Progress]:
    """The progress of one launch; what was shown is removed at the end."""
    shown = Progress(name, steps, detect())
    try:
        yield shown
    finally:
        if shown.bar is not None:
            shown.bar.close()
