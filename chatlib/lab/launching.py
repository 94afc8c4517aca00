"""`launch` as notebooks and the command line call it: sources looked into, progress shown."""

from __future__ import annotations

import functools
from typing import Any

from chatlib.lab import display
from chatlib.launch import launcher
from chatlib.runs.store import Run
from chatlib.settings.stages import StageConfig


def tell(text: str) -> None:
    """A line in the terminal, unless progress is to be shown nowhere; never in a cell's output."""
    if display.way() != "none":
        display.say(text)


@functools.wraps(launcher.launch)
def launch(config: StageConfig, *arguments: Any, **options: Any) -> Run:
    """See `chatlib.launch.launcher.launch`, whose text this function shows."""
    from chatlib.data import heads

    heads.look_into(config)
    options = {"progress": display.progress, "say": tell} | options
    return launcher.launch(config, *arguments, **options)
