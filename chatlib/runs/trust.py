"""How it is known that a checkpoint is this user's own: DeepSpeed unpickles it, which runs code.

When a checkpoint is committed, it is sealed: `complete.json` holds a keyed hash (HMAC-SHA256) of
the names and the bytes of all its files. The key is a file that only this user can read,
`.key-UID` in the folder of runs (mode 0600), so that all nodes of a cluster share it. A folder
that somebody else put or altered there has no seal of ours, and every file must belong to us too.
Whoever can read this user's files can run code as this user anyway: against them nothing helps.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chatlib.runs.files import RunError, sha256
from chatlib.runs.identity import root


def seal(folder: Path, names: Iterable[str]) -> str:
    """The keyed hash of files of a folder. They are read in parallel: a large one takes long."""
    names = sorted(names)
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter free
        hashes = list(pool.map(sha256, [folder / name for name in names]))
    text = "".join(f"{digest} {name}\n" for digest, name in zip(hashes, names))
    return hmac.new(key(), text.encode(), hashlib.sha256).hexdigest()


def is_ours(folder: Path, names: Iterable[str], sealed: str) -> bool:
    """Whether a folder holds just these files, all of this user, with this user's seal."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir()}
    if set(found) != {*names, "complete.json"}:
        return False
    if any(path.is_symlink() or path.stat().st_uid != os.geteuid() for path in found.values()):
        return False
    return hmac.compare_digest(seal(folder, names), sealed)


def key() -> bytes:
    """This user's secret in the folder of runs, made at the first use.

    Raises `RunError` for one that others own or can read: they could have written it.
    """
    path = root() / f".key-{os.geteuid()}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _write_once(path, secrets.token_bytes(32))
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise RunError(f"{path} belongs to others or can be read by them; remove it")
        return file.read()


def _write_once(path: Path, secret: bytes) -> None:
    """Create a file in one step, so that nobody reads half of it. Raises `FileExistsError`."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secret)
        os.link(temporary, path)
    finally:
        temporary.unlink()
