"""A server under load: several clients who stream answers, and what each of them waits for.

Only the standard library: the clients share the machine with the server and must stay light.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from chatlib.serve.chat import Messages

TIMEOUT = 120  # seconds
LONGEST = 64  # tokens of an answer


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


def stream(
    line: http.client.HTTPConnection, model: str, messages: Messages, key: str = "", **fields: Any
) -> Streamed:
    """One greedy answer over an open connection. Raises `RuntimeError` with a refusal's text."""
    asked = {"model": model, "messages": messages, "max_tokens": LONGEST, "temperature": 0}
    head = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    began, first, text = time.perf_counter(), 0.0, ""
    line.request(
        "POST", "/v1/chat/completions", json.dumps(asked | {"stream": True} | fields), head
    )
    reply = line.getresponse()
    if reply.status != http.client.OK:
        raise RuntimeError(reply.read().decode())
    for row in reply:
        if row.startswith(b"data: {"):
            piece = _piece(json.loads(row[6:]))
            first = first or (time.perf_counter() - began if piece else 0.0)
            text += piece
    return Streamed(text.strip(), first, time.perf_counter() - began)


def _piece(chunk: dict[str, Any]) -> str:
    """The text of a chunk; the last ones have none."""
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def ask(
    url: str, model: str, prompts: Sequence[Messages], clients: int, key: str = "", **fields: Any
) -> Load:
    """Ask all prompts, ``clients`` at a time: client i takes prompts i, i + clients, ...

    ``url`` is the server's without ``/v1``; ``fields`` go into every request.
    """
    where = urlsplit(url)

    def one(client: int) -> list[Streamed]:
        line = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT)
        try:
            return [stream(line, model, p, key, **fields) for p in prompts[client::clients]]
        finally:
            line.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        shares = list(pool.map(one, range(clients)))
    seconds = time.perf_counter() - began
    return Load([shares[i % clients][i // clients] for i in range(len(prompts))], seconds)
