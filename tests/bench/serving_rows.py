"""`chatlib serve` against `transformers serve`, and llama.cpp's own server beside.

Eight clients ask all three the same prompts in every round, one server after another, and all must
give the same texts. A server has one thread for the model, as the clients want the other core.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import work
from compare import Row

from chatlib.evaluate import policy
from chatlib.launch import plan
from chatlib.serve import chat, gguf, llama, load

CLIENTS = 8
EACH = 2  # prompts that a client asks in a round
PATIENCE = 180  # seconds until a server answers for the first time
START = {
    "chatlib": "from chatlib.__main__ import main; main()",
    # its command line without the look for a newer version
    "transformers": "from transformers.cli.transformers import app; app()",
}
AROUND = {"OMP_NUM_THREADS": "1", "CHATLIB_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}


@contextlib.contextmanager
def serving(program: str, folder: Path) -> Iterator[str]:
    """A program's server on a model folder; its address."""
    port = plan.free_port()
    command = [sys.executable, "-c", START[program], "serve", str(folder), "--port", str(port)]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1"], env={**os.environ, **AROUND}, **quiet
    )
    try:
        wait_for(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_for(process: subprocess.Popen, port: int) -> None:
    """Wait until the server answers. Raises `RuntimeError` when it has ended, or takes too long."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE and process.poll() is None:
        with contextlib.suppress(OSError):
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            line.request("GET", "/health")
            if line.getresponse().status == http.client.OK:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args[2]} did not answer; it ended with {process.poll()}")


@contextlib.contextmanager
def llama_cpp(assistant: chat.Assistant) -> Iterator[str]:
    """llama.cpp's server on the same weights in 32 bits; its address."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        gguf.write(assistant, path, "f32")
        running = llama.running(path)
        yield running.listening_address


@functools.cache
def measured(rounds: int) -> dict[str, list[load.Load]]:
    """What the clients of each server got in rounds 1 to ``rounds``; round 0 warms up."""
    folder = work.model("sft")
    assistant = chat.load(folder)
    cases = policy.scenarios(CLIENTS * EACH * (rounds + 1))
    prompts = [case.messages() for case in cases]
    with (
        serving("chatlib", folder) as ours,
        serving("transformers", folder) as theirs,
        llama_cpp(assistant) as beside,
    ):
        asked = {
            "chatlib": (ours, assistant.name),
            "transformers": (theirs, str(folder)),
            "llama.cpp": (beside, "model"),
        }
        found: dict[str, list[load.Load]] = {name: [] for name in asked}
        for k in range(rounds + 1):
            part = prompts[CLIENTS * EACH * k : CLIENTS * EACH * (k + 1)]
            for name, (url, model) in asked.items():
                found[name].append(load.ask(url, model, part, CLIENTS))
    return {name: loads[1:] for name, loads in found.items()}


def same_texts(found: dict[str, list[load.Load]], other: str) -> float:
    """Share of the answers that another server gave word for word as `chatlib serve` did."""
    ours, theirs = ([t for one in found[name] for t in one.texts] for name in ("chatlib", other))
    return sum(a == b for a, b in zip(ours, theirs)) / len(ours)


def against(other: str, target: float | None, rounds: int) -> Row:
    """Seconds in which all clients had all answers."""
    found = measured(rounds)
    assert same_texts(found, other) > 0.98, f"{other} gives other answers"
    words = work.tokenizer()
    counts = [len(words.encode(t)) + 1 for one in found["chatlib"] for t in one.texts]
    ours, theirs = ([one.seconds for one in found[name]] for name in ("chatlib", other))
    name = f"chatlib serve / {other}, {CLIENTS} clients"
    return Row(name, target, "tokens", sum(counts) / rounds, ours, theirs)


def first_token(other: str, target: float | None, rounds: int) -> Row:
    """Median seconds to the first text, ours over theirs."""
    found = measured(rounds)
    ours, theirs = ([one.first for one in found[name]] for name in ("chatlib", other))
    name = f"first token: chatlib serve / {other}, {CLIENTS} clients"
    return Row(name, target, "answers", 1, theirs, ours, at_most=True)
