"""Mutations: one name of the code replaced by another function, in the ranks of a launch.

    with mutated("chatlib.maths.policy.kl_estimate", "def kl_estimate(*a, **k): return 0.0"):
        launch(config)

What is wrong on purpose travels in an environment variable, which launches hand to their ranks;
the worker applies it before it imports a stage, so that `from x import f` gets the mutant, too.
Mutations are part of a run's identity and stand in its manifest: a mutant never passes for a
healthy run. The process that launches stays as it is.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import json
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VARIABLE = "CHATLIB_MUTATIONS"  # {name: by} as JSON


def in_force() -> dict[str, str]:
    """What is replaced, by full name: a function's source, or `module:function`."""
    return json.loads(os.environ.get(VARIABLE) or "{}")


@contextlib.contextmanager
def mutated(name: str, by: str) -> Iterator[None]:
    """Replace `name` in every launch inside the context.

    `name` is that of a function or method, `chatlib.maths.policy.kl_estimate`. `by` is the source
    of a function, which sees the names of the module it goes into, or `module:function`, which
    the ranks import. The original is the mutant's `__wrapped__`. Raises `ValueError` for a source
    that does not end with a function.
    """
    digest(by)
    if not _is_reference(by):
        _name_in(by, name)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = json.dumps({**in_force(), name: by})
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def digest(by: str) -> str:
    """A hash that changes with a mutant's source; that of its whole file for `module:function`."""
    text = by.encode()
    if _is_reference(by):
        text += _file(by.partition(":")[0]).read_bytes()
    return hashlib.sha256(text).hexdigest()[:16]


def apply() -> None:
    """Put every mutation in force into this process. A rank calls this before it imports a stage.

    Raises `ValueError` for a name that does not exist.
    """
    for name, by in in_force().items():
        owner, attribute, original = _find(name)
        mutant = _load(by, sys.modules[owner_module(owner)].__dict__, name)
        mutant.__wrapped__ = original  # type: ignore[attr-defined]
        setattr(owner, attribute, mutant)
        for module in list(sys.modules.values()):  # who imported the original by its name
            if getattr(module, "__name__", "").startswith("chatlib"):
                for alias in [k for k, v in vars(module).items() if v is original]:
                    setattr(module, alias, mutant)


def owner_module(owner: Any) -> str:
    """The name of the module that a module or a class is (in)."""
    return owner.__module__ if isinstance(owner, type) else owner.__name__


def _find(name: str) -> tuple[Any, str, Any]:
    """(module or class, attribute, value) of a full name."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        with contextlib.suppress(ModuleNotFoundError, AttributeError):
            owner: Any = importlib.import_module(module)
            for part in parts[length:-1]:
                owner = getattr(owner, part)
            return owner, parts[-1], getattr(owner, parts[-1])
    raise ValueError(f"{name} does not exist and cannot be replaced; give module.function")


def _is_reference(by: str) -> bool:
    module, colon, function = by.partition(":")
    return bool(colon) and function.isidentifier() and module.replace(".", "_").isidentifier()


def _file(module: str) -> Path:
    """Where a mutant's module lies, without importing it."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"the mutation's module {module} cannot be found; put it on PYTHONPATH")
    return Path(found.origin)


def _load(by: str, names: dict[str, Any], name: str) -> Callable[..., Any]:
    """The function that a mutation stands for."""
    if _is_reference(by):
        module, _, function = by.partition(":")
        return getattr(importlib.import_module(module), function)
    return _define(by, names, name)


def _name_in(source: str, name: str) -> str:
    """The name of the function with which a mutation's source ends. Raises `ValueError`."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"the mutation of {name} is no Python: {error}") from None
    if not body or not isinstance(body[-1], ast.FunctionDef):
        raise ValueError(f"the mutation of {name} defines no function; end it with one")
    return body[-1].name


def _define(source: str, names: dict[str, Any], name: str) -> Callable[..., Any]:
    """The function that a source defines among `names`; its lines appear in tracebacks."""
    place, known = f"<mutation of {name}>", dict(names)
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    exec(compile(source, place, "exec"), known)  # noqa: S102 (the code of this user's own process)
    return known[_name_in(source, name)]
