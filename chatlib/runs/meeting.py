"""How ranks and the launching process find, hear and leave each other.

The first node says in `meeting.json` that it has started, and renews that while it lives; ranks on
other machines end when it is emptied or no longer renewed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from chatlib.runs.files import read_json, write_json

PEER_LOST = "another rank did not finish"  # what our own worker says when it waited in vain
# What a rank says when it fails only because another one has gone.
SILENCE = 120.0  # seconds without news from the launching process: it was killed


def meeting_path(directory: Path) -> Path:
    """Where the first node says that it has started, and keeps saying so."""
    return directory / "meeting.json"


def announce(directory: Path, port: int, checkpoint: Path | None, launch: str = "") -> None:
    """The first node's word to the others: the port, and the checkpoint to continue from.

    `launch` tells its ranks from those of an earlier launch that have not ended yet.
    """
    named = str(checkpoint) if checkpoint else None
    write_json(meeting_path(directory), {"port": port, "checkpoint": named, "launch": launch})


def still_here(directory: Path) -> None:
    """Renew the announcement's time: one that is not renewed was left by a dead launch."""
    os.utime(meeting_path(directory))


def dismiss(directory: Path) -> None:
    """Tell the ranks that were started over ssh to end."""
    with contextlib.suppress(OSError):
        os.truncate(meeting_path(directory), 0)


def await_dismissal(directory: Path, seconds: float = SILENCE, launch: str = "") -> None:
    """Return when the launching process dismissed its ranks, was silent for so long, or when
    another launch than `launch` has taken its place.
    """
    seen, heard = None, time.monotonic()
    while time.monotonic() - heard < seconds:
        with contextlib.suppress(OSError), open(meeting_path(directory), "rb") as announcement:
            found = os.fstat(announcement.fileno())  # opened: a shared file system looks anew
            if not found.st_size or json.load(announcement).get("launch") != launch:
                return
            if found.st_mtime_ns != seen:
                seen, heard = found.st_mtime_ns, time.monotonic()
        time.sleep(min(1.0, seconds / 10))


def await_meeting(directory: Path, finished: Callable[[], bool], seconds: float) -> dict | None:
    """What the first node announced; None when the run is finished. Clocks need not agree.

    Raises `TimeoutError` when there is no living announcement within `seconds`.
    """
    path, deadline, seen = meeting_path(directory), time.monotonic() + seconds, set()
    while not finished():
        if path.is_file():
            seen.add(path.stat().st_mtime_ns)
        if len(seen) > 1 and (meeting := read_json(path)):
            return meeting
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the first node did not start {directory.name} within {seconds:.0f} s; look at "
                f"what it printed, and whether it sees the same {directory.parent}"
            )
        time.sleep(0.2)
    return None


def hosts_path(directory: Path) -> Path:
    """Where the launching process writes the host of every rank, when there are several."""
    return directory / "hosts.json"


def interface(other: str) -> str | None:
    """The network interface that leads from this machine to another one; None when unknown.

    Nothing is sent: the route is asked for with an unconnected datagram socket.
    """
    import psutil

    try:
        family, *_, address = socket.getaddrinfo(other, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(own == a.address.partition("%")[0] for a in addresses):
            return name
    return None


def use_interface(directory: Path, rank: int) -> None:
    """Let gloo and NCCL talk through the interface that leads a rank to the other machines.

    Without that, gloo takes the address that the host's own name resolves to: often 127.0.1.1,
    where nobody else can reach it. Machines may call theirs by different names, so every rank
    looks for itself, by the hosts of all ranks. What the environment names already stays.
    """
    hosts = read_json(hosts_path(directory)).get("ranks")
    if not hosts:
        return
    other = hosts[0] if hosts[rank] != hosts[0] else hosts[-1]
    if name := interface(other):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        if not any(Path("/sys/class/infiniband").glob("*")):
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)  # else NCCL knows better
