"""The figures that pages and experiments reach, gathered in one JSON file.

A page calls `record({"sft.grounded": 0.87})`. While the book is executed, the environment
variable ``CHATLIB_RESULTS`` names the file and the figure lands there at ``.sft.grounded``;
when a reader runs the page alone the variable is not set and nothing is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

from chatlib.runs.files import write_atomically

VARIABLE = "CHATLIB_RESULTS"


def record(figures: dict[str, object]) -> dict[str, object]:
    """Merge figures into the file named by ``$CHATLIB_RESULTS`` and return them unchanged.

    Keys are dotted paths (``ppo.seconds``); values are numbers, texts, or lists and dicts of
    them; numpy and torch scalars are taken as numbers. Raises `ValueError` for a value that
    JSON cannot hold, NaN and infinity included, and for a key that is a figure and a group.
    """
    found = {key: plain(key, value) for key, value in figures.items()}
    if target := os.environ.get(VARIABLE):
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), mode=0o644):  # pages run side by side
            write(path, merge(read(path), nested(found)))
    return figures


def nested(figures: dict[str, object]) -> dict:
    """``{"a.b": 1, "a.c": 2}`` as ``{"a": {"b": 1, "c": 2}}``."""
    tree: dict = {}
    for key, value in figures.items():
        *groups, name = key.split(".")
        branch = {name: value}
        for part in reversed(groups):
            branch = {part: branch}
        tree = merge(tree, branch)
    return tree


def merge(old: dict, new: dict, at: str = "") -> dict:
    """Both trees in one; a figure of `new` replaces the figure of `old` at the same place."""
    merged = dict(old)
    for key, value in new.items():
        here = f"{at}{key}"
        if key in old and isinstance(old[key], dict) != isinstance(value, dict):
            raise ValueError(f"`{here}` is both a figure and a group of figures; rename one")
        is_group = isinstance(value, dict) and key in old
        merged[key] = merge(old[key], value, f"{here}.") if is_group else value
    return merged


def read(path: Path) -> dict:
    """The figures in `path`; none when there is no such file yet."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove it and run again") from None


def write(path: Path, tree: dict) -> None:
    """Replace `path` by the JSON of `tree` in one step: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(tree, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(path, text + "\n")


def plain(key: str, value: Any) -> Any:
    """`value` with numpy and torch scalars turned into Python numbers, at all depths.

    Raises `ValueError`, naming the place below `key`, for what JSON cannot hold.
    """
    if isinstance(value, dict):
        return {str(name): plain(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(f"{key}[{i}]", item) for i, item in enumerate(value)]
    try:
        value = value.item() if hasattr(value, "item") else value
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"`{key}` is {value!r}, not a figure; give a finite number") from None
    return value
