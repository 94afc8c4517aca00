"""A server under load: several clients who stream answers, and what each of them waits for.

Only the standard library: the clients share the machine with the server and must stay light.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from chatlib.serve.chat import Messages

TIMEOUT = 120  # seconds
LONGEST = 64  # tokens of an answer
PLACE = "/v1/chat/completions"


@dataclass(frozen=True)
class Streamed:
    """One answer as a client got it: its text, seconds to the first of it and to its end."""

    text: str
    first: float
    seconds: float


@dataclass(frozen=True)
class Load:
    """What all clients got, in the order of the prompts, and the seconds from first to last."""

    answers: list[Streamed]
    seconds: float

    @property
    def texts(self) -> list[str]:
        """The answers' texts."""
        return [one.text for one in self.answers]

    @property
    def first(self) -> float:
        """Median of the seconds to the first text."""
        return median(one.first for one in self.answers)


def stream(url: str, model: str, messages: Messages, key: str = "", **fields: Any) -> Streamed:
    """One greedy answer, over a connection of its own. Raises `RuntimeError` where it is refused.

    ``url`` is the server's without ``/v1``; ``fields`` go into the request.
    """
    asked = {"model": model, "messages": messages, "max_tokens": LONGEST, "temperature": 0}
    head = {
        "Content-Type": "application/json",
        **({"Authorization": f"Bearer {key}"} if key else {}),
    }
    began, first, text = time.perf_counter(), 0.0, ""
    with contextlib.closing(
        http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    ) as line:
        line.request("POST", PLACE, json.dumps(asked | {"stream": True} | fields), head)
        for piece in _pieces(line.getresponse()):
            first = first or time.perf_counter() - began
            text += piece
    return Streamed(text.strip(), first, time.perf_counter() - began)


def _pieces(reply: http.client.HTTPResponse) -> Iterator[str]:
    """The text of an answer's server-sent events, as it comes; some events have none."""
    if reply.status != http.client.OK:
        raise RuntimeError(reply.read().decode())
    for row in reply:
        if row.startswith(b"data: {"):
            for choice in json.loads(row[6:])["choices"]:
                if piece := choice["delta"].get("content"):
                    yield piece


def ask(
    url: str, model: str, prompts: Sequence[Messages], clients: int, key: str = "", **fields: Any
) -> Load:
    """Ask all prompts, ``clients`` at a time: client i takes prompts i, i + clients, ..."""

    def one(client: int) -> list[Streamed]:
        return [stream(url, model, p, key, **fields) for p in prompts[client::clients]]

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        shares = list(pool.map(one, range(clients)))
    seconds = time.perf_counter() - began
    return Load([shares[i % clients][i // clients] for i in range(len(prompts))], seconds)
