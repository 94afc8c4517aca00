"""`launch` as notebooks and the command line call it: sources looked into, progress shown."""

from __future__ import annotations

import functools
from typing import Any

from chatlib.lab import display
from chatlib.launch import launcher
from chatlib.runs.store import Run
from chatlib.settings.stages import StageConfig


@functools.wraps(launcher.launch)
def launch(config: StageConfig, *arguments: Any, **options: Any) -> Run:
    """See `chatlib.launch.launcher.launch`, whose text this function shows."""
    from chatlib.data import heads

    heads.look_into(config)
    options.setdefault("progress", display.progress)
    return launcher.launch(config, *arguments, **options)
