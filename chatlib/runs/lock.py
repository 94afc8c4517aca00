"""Who holds a run directory: one live launch at a time, on whatever file system.

The file `lock` is locked with `flock`, which ends with the process that took it, and names that
process, its host and its start. Where a file system has no locks, these words alone count: the
holder lives if its host says so, and is taken to live if it is on another host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from chatlib.runs.files import RunError

SETTLE = 0.3  # seconds in which two that write at once see who was last


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a run directory. Raises `RunError` where another process does, and `OSError`."""
    with open(directory / "lock", "a+", encoding="utf-8") as file:
        _take(file, directory)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a disk that was taken away
                file.truncate(0)


def _take(file: TextIO, directory: Path) -> None:
    """Lock an open file and write into it who we are."""
    file.seek(0)
    said, locks = file.read(), True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(_in_use(directory, said, "wait for it or stop it")) from error
    except OSError:
        locks = False
        if _may_live(said):
            remedy = f"wait for it, or remove {directory / 'lock'} if it has ended"
            raise RunError(_in_use(directory, said, remedy)) from None
    file.truncate(0)
    file.write(_me())
    file.flush()
    if not locks:
        time.sleep(SETTLE)
        file.seek(0)
        if (now := file.read()) != _me():
            raise RunError(_in_use(directory, now, "wait for it or stop it"))


def is_held(directory: Path) -> bool:
    """Whether a live launch holds the run directory."""
    try:
        with open(directory / "lock", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return _may_live(lock.read())
    except OSError:
        return False
    return False


def _in_use(directory: Path, said: str, remedy: str) -> str:
    pid, host, _ = (*said.split(), "?", "?", "?")[:3]
    return f"{directory} is in use by a live run (process {pid} on {host}); {remedy}"


def _me() -> str:
    """Process, host and start of this process."""
    import psutil

    return f"{os.getpid()} {socket.gethostname()} {psutil.Process().create_time()}"


def _may_live(said: str) -> bool:
    """Whether the process that wrote these words may still be there."""
    import psutil

    words = said.split()
    if len(words) != 3:
        return False
    pid, host, start = words
    if host != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(start)) < 1.0
    except psutil.Error:
        return False
