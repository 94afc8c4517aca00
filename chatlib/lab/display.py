"""Live progress of a launch: one bar with one figure in a notebook, lines of text elsewhere.

`$CHATLIB_PROGRESS` picks the way: `bar` (in a notebook), `plain` (a line every few seconds) or
`none`. By default a notebook in front of a person gets the bar; a terminal gets lines, and so
does the terminal in which nbconvert or nbval executes a notebook. Nothing is left in stored
outputs. Plain lines are also written to the file `$CHATLIB_PROGRESS_FILE`, if it is set.
"""

from __future__ import annotations

import contextlib
import html
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

FIGURES = ("loss", "score", "kl", "gold")  # shown, each with its curve, when a run has them
PLAIN_SECONDS, FILE_SECONDS = 10.0, 1.0  # between two lines
WAYS = ("bar", "plain", "none")


class Display(Protocol):
    """Something that shows the metrics so far and can be taken away."""

    def update(self, rows: list[dict]) -> None:
        """Show the metrics so far."""

    def close(self) -> None:
        """Take the display away."""


def figures(rows: list[dict]) -> dict[str, list[float]]:
    """The values so far of each figure worth watching; not every row has them."""
    values = {k: [row[k] for row in rows if isinstance(row.get(k), float)] for k in FIGURES}
    return {name: found for name, found in values.items() if found}


def newest(rows: list[dict]) -> str:
    """The last value of each figure, as text."""
    return "  ".join(f"{name} {values[-1]:.3f}" for name, values in figures(rows).items())


class NotebookBar:
    """A bar with small curves in the cell's output, redrawn in place at most once a second."""

    def __init__(self, name: str, steps: int):
        from IPython.display import display

        self.name, self.steps, self.drawn = name, steps, 0.0
        self.handle: Any = display({"text/plain": name}, raw=True, display_id=True)

    def update(self, rows: list[dict]) -> None:
        """Redraw the bar, unless it was drawn less than a second ago."""
        if time.monotonic() - self.drawn > 1:
            self.drawn = time.monotonic()
            data = {"text/html": bar_html(self.name, self.steps, rows), "text/plain": ""}
            self.handle.update(data, raw=True)

    def close(self) -> None:
        """Leave an empty output."""
        self.handle.update({}, raw=True)


class Lines:
    """One line of text every `seconds`, written with `write`."""

    def __init__(self, name: str, steps: int, seconds: float, write: Callable[[str], object]):
        self.name, self.steps, self.seconds, self.write = name, steps, seconds, write
        self.step, self.last = 0, time.monotonic()
        write(f"{name}: starting")

    def update(self, rows: list[dict]) -> None:
        """Write a line when one is due, and one for the last step."""
        step, waited = rows[-1]["step"], time.monotonic() - self.last
        if step != self.step and (waited > self.seconds or step == self.steps):
            self.step, self.last = step, time.monotonic()
            self.write(f"{self.name}: step {step}/{self.steps}  {newest(rows)}")

    def close(self) -> None:
        """Lines that were written stay."""


def bar_html(name: str, steps: int, rows: list[dict]) -> str:
    """Bar, and number and curve of each figure of the metrics so far."""
    step = rows[-1]["step"]
    text = html.escape(f"{name}  {step}/{steps}")
    drawn = [
        f"<code>{figure} {values[-1]:.3f}</code> {sparkline(values, figure)}"
        for figure, values in figures(rows).items()
    ]
    return (
        f'<div role="status"><progress max="{steps}" value="{step}"></progress> '
        f"<code>{text}</code><br>{' '.join(drawn)}</div>"
    )


def sparkline(values: list[float], name: str, width: int = 160, height: int = 48) -> str:
    """A curve as inline SVG, in the colour of the text; nothing for fewer than two values."""
    values = [v for v in values if abs(v) < float("inf")]  # NaN compares false, too
    if len(values) < 2:
        return ""
    values = values[:: max(1, len(values) // width)]
    low, span = min(values), (max(values) - min(values)) or 1.0
    dx, dy = width / max(1, len(values) - 1), (height - 4) / span
    points = " ".join(
        f"{i * dx:.0f},{height - 2 - (v - low) * dy:.1f}" for i, v in enumerate(values)
    )
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="{name} so far">'
        f'<polyline points="{points}" fill="none" stroke="currentColor"/></svg>'
    )


def append_line(path: Path, text: str) -> None:
    """Add a line to a file; a file that cannot be written costs nothing but the line."""
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write(text + "\n")


def say(text: str) -> None:
    """Write a line to the standard error that this process was started with.

    A kernel's `sys.stderr` goes into the cell's output and would be stored. Its `fileno` is the
    terminal's in which the notebook is executed.
    """
    if not _kernel():
        print(text, file=sys.stderr, flush=True)
        return
    try:
        terminal = sys.stderr.fileno()
    except (AttributeError, OSError):  # a kernel that left the process's own as it was
        terminal = 2
    with contextlib.suppress(OSError):  # a terminal that was closed costs nothing but the line
        os.write(terminal, f"{text}\n".encode())


def _kernel() -> Any:
    """The Jupyter kernel that this process is, if it is one."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None)


def way() -> str:
    """`bar`, `plain` or `none`: what suits the place the output goes to."""
    wanted = os.environ.get("CHATLIB_PROGRESS")
    if wanted:
        if wanted not in WAYS:
            raise ValueError(f"CHATLIB_PROGRESS is {wanted!r}; use one of {', '.join(WAYS)}")
        return wanted
    # nbconvert and nbval, which store outputs, allow no input
    return "bar" if getattr(_kernel(), "_allow_stdin", False) else "plain"


def displays(name: str, steps: int) -> list[Display]:
    """Everything that shows a launch of `steps` steps."""
    shown: list[Display] = []
    chosen, path = way(), os.environ.get("CHATLIB_PROGRESS_FILE")
    if chosen == "bar" and _kernel():
        shown.append(NotebookBar(name, steps))
    elif chosen != "none":
        shown.append(Lines(name, steps, PLAIN_SECONDS, say))
    if path:
        shown.append(Lines(name, steps, FILE_SECONDS, lambda text: append_line(Path(path), text)))
    return shown


@contextlib.contextmanager
def progress(name: str, steps: int) -> Iterator[Callable[[list[dict], list[str]], None]]:
    """Yields a function that shows the metrics so far; what it showed is removed at the end.

    The function says the lines of the data report once, on the terminal and in no stored output.
    """
    shown = displays(name, steps)
    told: list[str] = []

    def update(rows: list[dict], report: Sequence[str] = ()) -> None:
        if report and not told and way() != "none":
            told.extend(f"{name}: {line}" for line in report)
            say("\n".join(told))
        for display in shown if rows else ():
            display.update(rows)

    try:
        yield update
    finally:
        for display in shown:
            display.close()
