"""Several machines in one launch: who they are, how they reach each other, how they meet.

There are two ways to start them. From one machine, DeepSpeed starts the others over ssh
(`pdsh`). Or one launch runs on every machine with its own `node_rank`, which is what a batch
system does and needs no ssh: the first node owns the run directory and announces the port in
`meeting.json`; the others wait for that. Both need the run directory on a file system that all
machines share, under one path: heartbeats, checkpoints and the manifest live there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatlib.launch.failures import LaunchError

LINE = re.compile(r"([^\s-]\S*)\s+slots=(\d+)(\s*#.*)?")  # as DeepSpeed reads it
EXPORTED = ("GLOO_SOCKET_IFNAME", "HF_HOME", "HF_HUB_OFFLINE")  # to other machines, with CHATLIB_*
Hosts = str | os.PathLike | Sequence[str]


@dataclass(frozen=True)
class Nodes:
    """The machines of a launch: `slots` maps host names to ranks, the first is the master.

    `here` is this machine's place in that order where each machine launches for itself, and
    None where one machine starts all of them over ssh.
    """

    slots: dict[str, int]
    here: int | None = None

    @property
    def master(self) -> str:
        """The host of rank 0, where the ranks meet."""
        return next(iter(self.slots))

    @property
    def local_ranks(self) -> int:
        """Ranks on this machine; over ssh, the most on any."""
        counts = list(self.slots.values())
        return max(counts) if self.here is None else counts[self.here]

    @property
    def host_of_rank(self) -> list[str]:
        """The host of every rank, in order."""
        return [host for host, count in self.slots.items() for _ in range(count)]

    @property
    def hostfile(self) -> str:
        """The text of a DeepSpeed hostfile."""
        return "".join(f"{host} slots={count}\n" for host, count in self.slots.items())

    def __str__(self) -> str:
        return ", ".join(f"{host} {count}" for host, count in self.slots.items())


def read(hosts: Hosts | None, ranks: int, node_rank: int | None = None) -> Nodes | None:
    """The machines that `hosts` names: a hostfile's path, or its lines (`NAME slots=RANKS`).

    None stands for the hostfile in `$CHATLIB_HOSTS`; without that there is only this machine,
    and the result is None. Raises `LaunchError` for a line that is no host, slots that do not
    sum up to `ranks`, and a `node_rank` that no host has.
    """
    hosts = hosts or os.environ.get("CHATLIB_HOSTS")
    if not hosts:
        if node_rank is not None:
            raise LaunchError(f"node_rank {node_rank} has no meaning without hosts; give both")
        return None
    slots, place = parse(hosts), "hosts" if isinstance(hosts, list | tuple) else str(hosts)
    nodes = Nodes(slots, node_rank)
    if sum(slots.values()) != ranks:
        raise LaunchError(
            f"{place} offers {sum(slots.values())} slots ({nodes}) for a configuration of ranks "
            f"{ranks}; set ranks to the sum of the slots or change the slots"
        )
    if node_rank is not None and not 0 <= node_rank < len(slots):
        raise LaunchError(f"node_rank is {node_rank}; {place} has nodes 0 to {len(slots) - 1}")
    return nodes


def parse(hosts: Hosts) -> dict[str, int]:
    """Host names and slots of a hostfile, or of its lines. Raises `LaunchError`."""
    slots: dict[str, int] = {}
    place, lines = _lines(hosts)
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = LINE.fullmatch(line.strip())
        if not found or found[1] in slots or not int(found[2]):
            why = "comes a second time" if found and found[1] in slots else "is no host"
            raise LaunchError(f"{place}, line {number}: {line!r} {why}; write `NAME slots=RANKS`")
        slots[found[1]] = int(found[2])
    if not slots:
        raise LaunchError(f"{place} names no host; write a line `NAME slots=RANKS` for each")
    return slots


def _lines(hosts: Hosts) -> tuple[str, list[str]]:
    """How to call a list of hosts in a message, and its lines."""
    if not isinstance(hosts, str | os.PathLike):
        return "hosts", list(hosts)
    try:
        return str(hosts), Path(hosts).expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LaunchError(
            f"the hostfile {hosts} cannot be read ({error.strerror}); "
            "give one with a line `NAME slots=RANKS` for each machine"
        ) from error


def require_ssh_launcher(nodes: Nodes) -> None:
    """Raise `LaunchError` where machines are to be started from here but `pdsh` is missing."""
    if nodes.here is None and not shutil.which("pdsh"):
        raise LaunchError(
            "hosts are started with pdsh over ssh, and pdsh is not installed; "
            "install it, or launch once on every machine with its node_rank"
        )


def write_exports(path: Path, added: dict[str, str]) -> None:
    """The variables that DeepSpeed hands to ranks started over ssh, `NAME=VALUE` a line.

    DeepSpeed reads one such file (`$DS_ENV_FILE`), so the user's own goes in first.
    """
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    own = [folder / name for folder in (Path.home(), Path.cwd()) if (folder / name).is_file()]
    lines = [line for file in own for line in file.read_text().splitlines() if "=" in line]
    wanted = {k: v for k, v in os.environ.items() if k.startswith("CHATLIB_") or k in EXPORTED}
    wanted |= added
    text = "\n".join([*lines, *(f"{k}={v}" for k, v in wanted.items())])
    path.unlink(missing_ok=True)  # it may hold secrets: nobody else can read it, from the start
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
