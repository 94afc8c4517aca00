"""`chatlib serve` against `transformers serve`: the same model, prompts and greedy answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import work
from compare import THREADS, Row, in_turns

from chatlib import lab
from chatlib.data import sources
from chatlib.launch import plan

CLIENTS = 8
ASKED = 5  # prompts of each client in a round
ALONE = 20  # prompts of a round of first tokens, one after the other
TOKENS = 64
START = 300  # seconds that a server may take to load the model


def prompts(count: int) -> list[list[dict]]:
    """Conversations of the shop that end with the customer's turn."""
    records = sources.load(lab.recipe("ppo", records=2000)).train
    return [list(record.prompt) for record in records[:count]]


@contextlib.contextmanager
def served(command: list[str], name: str, where: str) -> Iterator[tuple[str, str]]:
    """A server in a process of its own, once it answers; its address and the model's name there."""
    threads = {"OMP_NUM_THREADS": str(THREADS), "CHATLIB_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with subprocess.Popen(command, env=os.environ | threads, **quiet) as process:
        try:
            until = time.monotonic() + START
            while not _healthy(where):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{' '.join(command)} does not answer; run it to see why")
                time.sleep(0.2)
            yield where, name
        finally:
            process.kill()


def _healthy(where: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{where}/health", timeout=2).status_code == 200
    return False


@contextlib.contextmanager
def both() -> Iterator[list[tuple[str, str]]]:
    """Ours and theirs, on the same folder."""
    folder, bin_ = work.model("sft"), Path(sys.executable).parent
    places = [f"http://127.0.0.1:{plan.free_port()}" for _ in range(2)]
    ports = [place.rsplit(":")[-1] for place in places]
    ours = [sys.executable, "-m", "chatlib", "serve", str(folder), "--port", ports[0]]
    theirs = [str(bin_ / "transformers"), "serve", str(folder), "--host", "127.0.0.1"]
    theirs += ["--port", ports[1], "--device", "cpu"]
    name = folder.parent.name  # a run's folder holds its model
    with (
        served(ours, name, places[0]) as one,
        served(theirs, str(folder), places[1]) as other,
    ):
        yield [one, other]


async def read(client: httpx.AsyncClient, server: tuple[str, str], messages: list[dict]):
    """(seconds to the first text, the whole text) of one streamed answer."""
    where, model = server
    asked = {"model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 0}
    began, first, text = time.perf_counter(), 0.0, ""
    where = f"{where}/v1/chat/completions"
    async with client.stream("POST", where, json=asked | {"stream": True}) as reply:
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            delta = json.loads(line[6:])["choices"][0]["delta"]
            text += delta.get("content") or ""
            first = first or (time.perf_counter() - began if text else 0.0)
    return first, text


async def at_once(server: tuple[str, str], asked: list[list[dict]]) -> tuple[float, list[str]]:
    """Seconds until as many clients as there may be have read all answers, and these."""
    async with httpx.AsyncClient(timeout=START) as http:

        async def client(k: int) -> list[str]:
            return [(await read(http, server, m))[1] for m in asked[k::CLIENTS]]

        began = time.perf_counter()
        texts = await asyncio.gather(*(client(k) for k in range(CLIENTS)))
        return time.perf_counter() - began, [text for part in texts for text in part]


async def one_by_one(server: tuple[str, str], asked: list[list[dict]]) -> float:
    """The median of the seconds to the first text when nobody else asks."""
    async with httpx.AsyncClient(timeout=START) as http:
        return statistics.median([(await read(http, server, m))[0] for m in asked])


def throughput(rounds: int) -> Row:
    """Eight clients, each with the next prompt when it has its answer."""
    asked = prompts(CLIENTS * ASKED)
    with both() as (ours, theirs):
        texts, others = (asyncio.run(at_once(server, asked))[1] for server in (ours, theirs))
        assert texts == others, "the two servers' answers differ"
        sides = [lambda _, s=s: asyncio.run(at_once(s, asked))[0] for s in (ours, theirs)]
        times = in_turns(*sides, rounds)
    tokens = sum(map(len, work.tokenizer()(texts, add_special_tokens=False)["input_ids"]))
    name = f"serving {CLIENTS} clients / transformers serve"
    return Row(name, 0.9, "tokens", tokens + len(texts), *times)


def first_text(rounds: int) -> Row:
    """One client: from its request to the first text that it can show."""
    asked = prompts(ALONE)
    with both() as (ours, theirs):
        sides = [lambda _, s=s: asyncio.run(one_by_one(s, asked)) for s in (theirs, ours)]
        times = in_turns(*sides, rounds)
    name = "first text, ours / transformers serve"
    return Row(name, 1.1, "answers", 1, *times, at_most=True)
