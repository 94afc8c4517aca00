"""One line that says at any time where the execution stands: page, cell, step, seconds."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TextIO


class Progress:
    """Shows the state of the work: a line in place on a terminal, now and then a line elsewhere.

    Use as a context manager; `page` and `cell` move it on. What happens inside a cell comes
    from `steps_file`, into which `chatlib.lab.display` writes the step it is at.
    """

    def __init__(self, steps_file: Path, stream: TextIO | None = None, every: float = 10.0):
        self.steps_file = steps_file
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.every = 1.0 if self.live else every
        self.began = time.monotonic()
        self.cell = 0
        self.where = ""
        self.left = 0.0  # seconds that the rest of the work took last time, as `expect` was told
        self.told = self.began
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.stream.write(f"\r\x1b[K{text}\n" if self.live else f"{text}\n")
        self.stream.flush()

    def at(self, page: str, cell: int, cells: int) -> None:
        """The work is now at a cell (counted from 1) of a page."""
        self.steps_file.unlink(missing_ok=True)
        self.cell = cell
        self.where = f"{page}  cell {cell}/{cells}"
        if self.live:
            self._show()

    def expect(self, seconds: float) -> None:
        """The work from here to the end takes about so long; 0: nobody knows."""
        self.left, self.told = seconds, time.monotonic()

    def line(self) -> str:
        """The state as one line of text."""
        seconds = int(time.monotonic() - self.began)
        spent = f"{seconds // 60:3d}:{seconds % 60:02d}"
        return f"{spent}  {self._left()}{self.where}  {self._step()}".rstrip()

    def _left(self) -> str:
        """The estimate of the time left, in minutes; nothing where there is none."""
        left = self.left - (time.monotonic() - self.told)
        return f"{max(1, round(left / 60))} min left  " if self.left else ""

    def _step(self) -> str:
        """The last line that a launch wrote about itself."""
        try:
            lines = self.steps_file.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        return next((text.strip() for text in reversed(lines) if text.strip()), "")

    def _show(self) -> None:
        if self.where:
            line = self.line()
            self.stream.write(f"\r\x1b[K{line[:100]}" if self.live else f"{line}\n")
            self.stream.flush()

    def _repeat(self) -> None:
        while not self._ended.wait(self.every):
            self._show()
