"""One live launch holds a run directory, on a file system with locks or without."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from chatlib.runs import lock
from chatlib.runs.files import RunError


@pytest.fixture(params=[True, False], ids=["with flock", "without flock"])
def locks(request, monkeypatch):
    """A file system that has locks, or one that has none."""

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if not request.param:
        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


def test_a_second_launch_is_refused_and_told_who_holds_it(tmp_path, locks):
    with lock.held(tmp_path):
        assert lock.is_held(tmp_path)
        who = rf"live run \(process {os.getpid()} on {socket.gethostname()}\)"
        with pytest.raises(RunError, match=who), lock.held(tmp_path):
            pass
        assert lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path)
    with lock.held(tmp_path):
        pass


def test_one_whose_process_was_killed_is_free(tmp_path, locks):
    code = f"from pathlib import Path; from chatlib.runs import lock\nwith lock.held(Path({str(tmp_path)!r})): import os; os.kill(os.getpid(), 9)"  # noqa: E501
    subprocess.run([sys.executable, "-c", code], timeout=60)
    assert (tmp_path / "lock").read_text() and not lock.is_held(tmp_path)


def test_without_locks_a_holder_on_another_host_is_taken_to_live(tmp_path, locks):
    (tmp_path / "lock").write_text("1 node7 1.0")
    assert lock.is_held(tmp_path) is not locks


def test_another_process_with_the_same_number_is_not_the_holder(tmp_path, locks):
    (tmp_path / "lock").write_text(f"{os.getpid()} {socket.gethostname()} 1.0")
    assert not lock.is_held(tmp_path)
