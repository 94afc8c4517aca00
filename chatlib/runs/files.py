"""Small files that a crash leaves whole: the old one or the new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


class RunError(RuntimeError):
    """A run cannot be found, read or written; the message names the place and the remedy."""


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a crash, sees the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # there only when writing failed: on a full disk


def write_json(path: Path, data: dict) -> None:
    """`write_atomically` of indented JSON."""
    write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """The object in a file, or an empty one where there is none or a torn one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def sha256(path: Path) -> str:
    """The hash of a file's bytes, in hex; read in pieces, however large it is."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
