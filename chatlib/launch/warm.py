"""A process that has imported what every rank imports, and forks launches from itself.

Importing torch, transformers and DeepSpeed takes longer than many a launch of this book trains,
and a launch does it once in DeepSpeed's launcher and once in every rank. Here it is done once in
the life of the launching process: its first launch starts `python -m chatlib.launch.warm`, which
imports and waits; that and every later launch are forks of it. What a fork runs is what would have
been started otherwise, DeepSpeed's launcher and `chatlib.train.worker`, in a process group, an
environment and with files of its own. Nothing of `chatlib` that trains is imported before the
fork, so that edited code and mutations count. The process ends with the one that launches.

On CPUs only, and on Linux: CUDA does not survive a fork. `CHATLIB_WARM=no` starts launches cold.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

from chatlib.settings.device import accelerator

PRELOADED = (
    "deepspeed.launcher.launch",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)
# Read while libraries are imported: another value asks for another process.
AT_IMPORT = re.compile(
    "PYTHON|LD_|OMP_|GOMP|MKL|KMP|OPENBLAS|ATEN|TORCH|PYTORCH|DS_|DEEPSPEED|HF_|TRANSFORMERS|CUDA"
    "|NUMEXPR|USE_|XDG_|HOME$|PATH$|TMPDIR$"
)
PATIENCE = 120.0  # seconds until it has forked, imports included
GOODBYE = 1.0  # seconds for it to end; with a launch of another thread it lives as long as that
LONGEST = 1 << 17  # bytes of a request


class Warm:
    """The waiting process, as the launching one sees it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.read_at_import = at_import(environment)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "chatlib.launch.warm", str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.requests = ours

    def suits(self, environment: dict[str, str]) -> bool:
        """Whether it lives and was started with what libraries read while they are imported."""
        return self.process.poll() is None and self.read_at_import == at_import(environment)

    def end(self, at_once: bool = False) -> None:
        """Let it end when the last of its forks has; `at_once` before it forks what was asked."""
        self.requests.close()
        if at_once:
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GOODBYE)


_warm: Warm | None = None  # of this process
_starting = threading.Lock()


def at_import(environment: dict[str, str]) -> dict[str, str]:
    """The part of an environment that libraries read while they are imported."""
    return {name: value for name, value in environment.items() if AT_IMPORT.match(name)}


class Forked:
    """A forked launcher, as far as `chatlib.launch.launcher` asks a `subprocess.Popen`."""

    def __init__(self, warm: Warm, request: bytes, output: IO[bytes]) -> None:
        reading, writing = os.pipe()
        self.stdin: IO[bytes] | None = open(writing, "wb", buffering=0)  # noqa: SIM115
        self.returncode: int | None = None
        self._said, saying = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            files = [reading, output.fileno(), saying.fileno()]
            socket.send_fds(warm.requests, [request], files)
            saying.close()
            self._said.settimeout(PATIENCE)
            self.pid = self._hear()
        except BaseException:
            self.stdin.close()  # should it have been forked, it ends
            raise
        finally:
            os.close(reading)
            saying.close()

    def _hear(self) -> int:
        """The next thing the warm process says: the fork's number, then how it ended."""
        said = self._said.recv(64)
        if not said:
            raise ConnectionError("the warm process has ended")
        return int(said)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._said], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("deepspeed", timeout or 0.0)
            try:
                self.returncode = self._hear()
            except OSError:  # nobody is left to tell how it ended
                self.returncode = -signal.SIGKILL
            self._said.close()
        return self.returncode

    def kill(self) -> None:
        """Kill the launcher itself, as long as it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def start(arguments: list[str], environment: dict[str, str], output: IO[bytes]) -> Forked | None:
    """Fork a launch whose command is `python -u -m deepspeed.launcher.launch` and `arguments`.

    None where launches start cold: on GPUs, elsewhere than on Linux, where the environment says
    so, and where the warm process could not be had.
    """
    global _warm
    off = environment.get("CHATLIB_WARM") == "no"
    if off or accelerator() != "cpu" or sys.platform != "linux":
        return None
    request = {"arguments": arguments, "environment": environment, "folder": os.getcwd()}
    message = json.dumps(request).encode()
    if len(message) > LONGEST:
        return None
    try:
        with _starting:
            if _warm is None or not _warm.suits(environment):
                if _warm:
                    _warm.end()
                _warm = Warm(environment)
            warm = _warm
        return Forked(warm, message, output)
    except OSError:
        return None
    except BaseException:  # interrupted while it imports: it must not begin what nobody waits for
        if _warm:
            _warm.end(at_once=True)
        raise


def stop() -> None:
    """End the warm process, should there be one; the next launch imports anew."""
    global _warm
    with _starting:
        if _warm:
            _warm.end()
        _warm = None


# ---------------------------------------------------------------------- in the warm process
def serve(requests: socket.socket) -> None:
    """Import, then fork for every request, and say of each fork its number and how it ended."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Slurm's warning: see `launcher._run_group`
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector of a fork need not walk, and so copy, what was imported here
    told, bell = os.pipe()
    for end in (told, bell):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(bell)
    forks: dict[int, int] = {}  # process number: where to say how it ended
    heard: list[Any] = [told, requests]
    while len(heard) > 1 or forks:
        ready, _, _ = select.select(heard, [], [])
        if told in ready:
            os.read(told, 512)
            reap(forks)
        if requests in ready:
            message, files, _, _ = socket.recv_fds(requests, LONGEST, 3)
            if message:
                fork(json.loads(message), files, forks, [requests.fileno(), told, bell])
            else:  # the launching process has gone, or wants another one of us
                heard.remove(requests)


def reap(forks: dict[int, int]) -> None:
    """Say of every fork that has ended how it did."""
    for number, to in list(forks.items()):
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            say(to, os.waitstatus_to_exitcode(status))
            os.close(forks.pop(number))


def say(to: int, what: int) -> None:
    """One number for the launching process; nothing when it has gone."""
    with contextlib.suppress(OSError):
        os.write(to, str(what).encode())


def fork(request: dict, files: list[int], forks: dict[int, int], ours: list[int]) -> None:
    """Fork one launcher. `files`: its standard input, its log, and where to tell of it."""
    number = os.fork()
    if number:
        forks[number] = files.pop()
        say(forks[number], number)
        for file in files:
            os.close(file)
        return
    ended(lambda: lead(request, files, ours + list(forks.values())))


def lead(request: dict, files: list[int], others: list[int]) -> None:
    """In the fork: DeepSpeed's launcher of a node, in a group of its own."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reading, output, telling = files
    for number, file in enumerate((reading, output, output)):
        os.dup2(file, number)
    for file in (*others, reading, output, telling):
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    from deepspeed.launcher import launch

    sys.argv = [launch.__file__, *request["arguments"]]
    launch.subprocess = SimpleNamespace(Popen=Rank)  # how it starts ranks
    launch.main()


class Rank:
    """A rank that DeepSpeed's launcher forks instead of starting, as far as it asks a `Popen`."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _, _, _, module, *arguments = command  # python -u -m MODULE ...
            os.environ.update(env)
            with contextlib.suppress(OSError):
                Path("/proc/self/comm").write_text(f"rank {env['RANK']}")  # what `ps` shows
            sys.argv = [module, *arguments]
            ended(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def ended(work: Any) -> NoReturn:
    """Do the work of a fork, and end the process with its exit code: a fork never returns."""
    code: Any = 1
    try:
        work()
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
