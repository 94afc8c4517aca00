"""`launch` as notebooks and the command line call it: with its progress shown."""

from __future__ import annotations

import functools

from chatlib.lab import display
from chatlib.launch import launcher


def tell(text: str) -> None:
    """A line in the terminal, unless progress is to be shown nowhere; never in a cell's output."""
    if display.way() != "none":
        display.say(text)


launch = functools.wraps(launcher.launch)(
    functools.partial(launcher.launch, progress=display.progress, say=tell)
)
