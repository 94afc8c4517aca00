"""`launch` as notebooks and the command line call it: with its progress shown."""

from __future__ import annotations

import functools

from chatlib.lab import display
from chatlib.launch import launcher

launch = functools.wraps(launcher.launch)(
    functools.partial(launcher.launch, progress=display.progress)
)
