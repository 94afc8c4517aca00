"""Live progress of a launch: one bar with one figure, in place, and nothing left behind.

`$CHATLIB_PROGRESS` picks the way: `bar`, `plain` (a line every few seconds) or `none`. By
default a terminal and a notebook in front of a person get the bar, another stream gets plain
lines, and a notebook executed by nbconvert or nbval gets nothing, so that its stored outputs
stay the same. Plain lines are also written to the file `$CHATLIB_PROGRESS_FILE`, if it is set.
"""

from __future__ import annotations

import contextlib
import html
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

FIGURES = ("loss", "score", "kl", "gold")  # shown when a step has them
CURVES = ("gold", "score", "loss")  # the first that a step has is drawn
PLAIN_SECONDS, FILE_SECONDS = 10.0, 1.0  # between two lines
WAYS = ("bar", "plain", "none")


class Display(Protocol):
    """Something that shows the metrics so far and can be taken away."""

    def update(self, rows: list[dict]) -> None: ...

    def close(self) -> None: ...


def figures(row: dict) -> str:
    """The figures worth watching, as text."""
    return "  ".join(f"{k} {row[k]:.3f}" for k in FIGURES if isinstance(row.get(k), float))


class TerminalBar:
    """A tqdm bar on standard error that vanishes at the end."""

    def __init__(self, name: str, steps: int):
        from tqdm import tqdm

        self.bar = tqdm(total=steps, desc=name, leave=False, dynamic_ncols=True)

    def update(self, rows: list[dict]) -> None:
        self.bar.n = rows[-1]["step"]
        self.bar.set_postfix_str(figures(rows[-1]))

    def close(self) -> None:
        self.bar.close()


class NotebookBar:
    """A bar with a small curve in the cell's output, redrawn in place at most once a second."""

    def __init__(self, name: str, steps: int):
        from IPython.display import display

        self.name, self.steps, self.drawn = name, steps, 0.0
        self.handle: Any = display({"text/plain": name}, raw=True, display_id=True)

    def update(self, rows: list[dict]) -> None:
        if time.monotonic() - self.drawn > 1:
            self.drawn = time.monotonic()
            data = {"text/html": bar_html(self.name, self.steps, rows), "text/plain": ""}
            self.handle.update(data, raw=True)

    def close(self) -> None:
        self.handle.update({}, raw=True)


class Lines:
    """One line of text every `seconds`, written with `write`."""

    def __init__(self, name: str, steps: int, seconds: float, write: Callable[[str], object]):
        self.name, self.steps, self.seconds, self.write = name, steps, seconds, write
        self.last = time.monotonic()
        write(f"{name}: starting")

    def update(self, rows: list[dict]) -> None:
        step = rows[-1]["step"]
        if time.monotonic() - self.last > self.seconds or step == self.steps:
            self.last = time.monotonic()
            self.write(f"{self.name}: step {step}/{self.steps}  {figures(rows[-1])}")

    def close(self) -> None:
        pass


def bar_html(name: str, steps: int, rows: list[dict]) -> str:
    """Bar, figures and curve of the metrics so far."""
    step = rows[-1]["step"]
    curve = next((k for k in CURVES if isinstance(rows[-1].get(k), float)), None)
    values = [row[curve] for row in rows if isinstance(row.get(curve), float)] if curve else []
    text = html.escape(f"{name}  {step}/{steps}  {figures(rows[-1])}")
    return (
        f'<div role="status"><progress max="{steps}" value="{step}"></progress> '
        f"<code>{text}</code><br>{sparkline(values)}</div>"
    )


def sparkline(values: list[float], width: int = 320, height: int = 48) -> str:
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
        f'<svg width="{width}" height="{height}" role="img" aria-label="curve so far">'
        f'<polyline points="{points}" fill="none" stroke="currentColor"/></svg>'
    )


def append_line(path: Path, text: str) -> None:
    """Add a line to a file; a file that cannot be written costs nothing but the line."""
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write(text + "\n")


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
    if kernel := _kernel():  # nbconvert and nbval, which store outputs, allow no input
        return "bar" if getattr(kernel, "_allow_stdin", False) else "none"
    return "bar" if sys.stderr.isatty() else "plain"


def displays(name: str, steps: int) -> list[Display]:
    """Everything that shows a launch of `steps` steps."""
    shown: list[Display] = []
    chosen, path = way(), os.environ.get("CHATLIB_PROGRESS_FILE")
    if chosen == "bar":
        shown.append((NotebookBar if _kernel() else TerminalBar)(name, steps))
    if chosen == "plain":
        say = lambda text: print(text, file=sys.stderr, flush=True)
        shown.append(Lines(name, steps, PLAIN_SECONDS, say))
    if path:
        shown.append(Lines(name, steps, FILE_SECONDS, lambda text: append_line(Path(path), text)))
    return shown


@contextlib.contextmanager
def progress(name: str, steps: int) -> Iterator[Callable[[list[dict]], None]]:
    """Yields a function that shows the metrics so far; what it showed is removed at the end."""
    shown = displays(name, steps)

    def update(rows: list[dict]) -> None:
        for display in shown:
            display.update(rows)

    try:
        yield update
    finally:
        for display in shown:
            display.close()
