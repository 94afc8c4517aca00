"""The code that trains, as a fingerprint: what an edit changes, and what it does not.

A stage's code is its own file in `chatlib/train`, and every module of `maths`, `settings`, `data`
and `train` that it imports, directly or through others; so is the module of each corpus of the
book's own that it trains on, which is imported by name. What counts is the syntax tree without
docstrings: comments, line breaks and wording rename no run. `runs` and `launch` move files and
processes, they do not compute.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import chatlib
from chatlib.runs import mutations
from chatlib.settings.corpora import CORPORA

ROOMS = ("maths", "settings", "data", "train")
NAMES_ONLY = "chatlib.settings.corpora"  # a list of corpora; a further one renames no run
PACKAGE = Path(chatlib.__file__).parent
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LENGTH = 16  # hexadecimal digits of a file's hash: enough to tell two versions apart


def code_of(stage: str, corpora: Iterable[str] = ("shop",)) -> dict[str, str]:
    """The hash of every file that trains a stage on some corpora, and of every mutation in force.

    Keys are paths below `chatlib` and `mutation of NAME`. Cheap to ask again: a file is parsed
    once for each of its versions.
    """
    own = {PACKAGE / "data" / f"{CORPORA[name]}.py" for name in corpora}
    found = _closure({PACKAGE / "train" / f"{stage}.py"} | own)
    files = {path.relative_to(PACKAGE).as_posix(): _parsed(path)[0] for path in found}
    wanted = mutations.in_force().items()
    return files | {f"mutation of {name}": mutations.digest(by) for name, by in wanted}


def digest(code: dict[str, str]) -> str:
    """One hash of all of `code_of`."""
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()


def changed_files(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """What differs between two results of `code_of`, by name."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def source_hash(path: Path) -> str:
    """The hash of a Python file's syntax tree without docstrings. Raises `OSError`."""
    return _parsed(path)[0]


def corpus_files(corpus: str) -> list[Path]:
    """The files of a corpus of the book's own, by path."""
    return _closure({PACKAGE / "data" / f"{CORPORA[corpus]}.py"})


def _closure(waiting: set[Path]) -> list[Path]:
    """Some files and all of ours that they import, directly or through others, by path."""
    found: set[Path] = set()
    while waiting := waiting - found:
        found |= waiting
        waiting = {path for known in waiting for path in _parsed(known)[1]}
    return sorted(found)


def _parsed(path: Path) -> tuple[str, tuple[Path, ...]]:
    """(hash of the syntax tree, our own files that it imports) of a file as it is now."""
    found = os.stat(path)
    return _parse(path, found.st_size, found.st_mtime_ns, found.st_ino)


@functools.cache
def _parse(path: Path, *version: int) -> tuple[str, tuple[Path, ...]]:
    """`_parsed` of one version of a file; one that is no Python counts with its bytes."""
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the rank says where; the run is another one either way
        return hashlib.sha256(source).hexdigest()[:LENGTH], ()
    text = json.dumps(plain(tree))
    modules = {_file(name) for name in _imported(tree)}
    imported = tuple(sorted(filter(None, modules)))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH], imported


def plain(node: object) -> object:
    """A syntax tree as lists, without docstrings and places, equal in every version of Python.

    `ast.dump` writes fields that only a newer Python has, and empty ones in some versions.
    """
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return [type(node).__name__, *((name, plain(value)) for name, value in fields.items())]


def _imported(tree: ast.Module) -> Iterator[str]:
    """The full names of what a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(module: str) -> Path | None:
    """The file of one of our modules that compute; None for any other name."""
    parts = module.split(".")
    listed = module.startswith(NAMES_ONLY)
    if parts[0] != "chatlib" or len(parts) < 3 or parts[1] not in ROOMS or listed:
        return None
    path = PACKAGE.joinpath(*parts[1:]).with_suffix(".py")
    return path if path.is_file() else None
