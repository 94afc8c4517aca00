"""A model that many ask at once: one answer at a time, the others wait in line.

Answers are made in a thread of the model's own, in the order of asking; the event loop only hands
their text on. Who leaves, in the line or in mid-answer, costs nothing from the next token on.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil

from chatlib.serve.chat import (
    THREAD,
    Asked,
    Assistant,
    ChatError,
    Messages,
    Sampling,
    fit,
    generate,
)

RECENT = 0.2  # weight of the latest answer in the mean of their seconds


class Full(Exception):
    """As many wait as may; ``seconds``: about when there is room again."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(
            f"{waiting} answers of this model are under way or waiting, which is all that this "
            f"server takes (--queue); ask again in {seconds} s"
        )
        self.seconds = seconds


class Left(Exception):
    """The client left before its turn had come."""


class Answer:
    """An answer on its way, in the event loop: first its turn comes, then its text.

    ``dropped`` turns and ``prompt_tokens`` are known from its turn on.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.dropped = self.prompt_tokens = 0
        self.text: deque[str] = deque()
        self.turn, self.news = asyncio.Event(), asyncio.Event()
        self.work: asyncio.Future[None]
        self.watch: asyncio.Task[None]  # who looks whether its client is still there

    def start(self, work: asyncio.Future[None]) -> None:
        """Follow the work that makes it."""
        self.work = work
        work.add_done_callback(self._over)

    def _over(self, work: asyncio.Future[None]) -> None:
        self.turn.set()
        self.news.set()
        _ = work.cancelled() or work.exception()  # seen, also where nobody waits for it any more

    async def begun(self) -> None:
        """Wait for its turn. Raises `ChatError` where the prompt does not fit, and `Left`."""
        await self.turn.wait()
        if self.work.cancelled():
            raise Left
        if self.work.done():
            self.work.result()

    async def pieces(self) -> AsyncIterator[str]:
        """The text, at each time as much as there is. Raises what the model raised."""
        over = False
        while not over:
            await self.news.wait()
            self.news.clear()
            over = self.work.done()
            if piece := "".join(self.text.popleft() for _ in range(len(self.text))):
                yield piece
        if not self.work.cancelled():
            self.work.result()

    def leave(self) -> None:
        """Nobody reads on: it ends at the next token, or never has a first."""
        self.asked.stop.set()
        self.work.cancel()


class Desk:
    """A model and its line of at most ``places`` answers, the one under way included."""

    def __init__(self, assistant: Assistant, places: int) -> None:
        self.assistant, self.places = assistant, places
        self.since = int(time.time())
        self._open: set[Answer] = set()
        self._thread = ThreadPoolExecutor(1, THREAD)
        self._seconds = 1.0  # of an answer, the mean of the latest

    @property
    def waiting(self) -> int:
        """Answers under way and in the line."""
        return len(self._open)

    def ask(self, messages: Messages, sampling: Sampling) -> Answer:
        """Take a place in the line. Raises `Full`."""
        if self.waiting >= self.places:
            raise Full(self.waiting, max(1, ceil(self.waiting * self._seconds)))
        answer = Answer(
            Asked(messages, sampling, turn=sum(m["role"] == "user" for m in messages) - 1)
        )
        loop = asyncio.get_running_loop()
        self._open.add(answer)
        answer.start(loop.run_in_executor(self._thread, self._make, answer, loop))
        answer.work.add_done_callback(lambda _: self._open.discard(answer))
        return answer

    def _make(self, answer: Answer, loop: asyncio.AbstractEventLoop) -> None:
        """In the model's thread: fit the conversation into the context and answer it."""
        began, asked = time.monotonic(), answer.asked
        asked.messages, asked.ids, answer.dropped = self._fit(asked)
        answer.prompt_tokens = len(asked.ids)
        loop.call_soon_threadsafe(answer.turn.set)

        def put(piece: str) -> None:
            answer.text.append(piece)
            loop.call_soon_threadsafe(answer.news.set)

        generate(self.assistant, asked, put)
        self._seconds += RECENT * (time.monotonic() - began - self._seconds)
        if asked.error:
            raise asked.error

    def _fit(self, asked: Asked) -> tuple[Messages, list[int], int]:
        """The messages that fit, their tokens, and the turns dropped."""
        name, context = self.assistant.name, self.assistant.context
        longest = asked.sampling.max_new_tokens
        encoded: dict[int, list[int]] = {}  # by the number of messages
        if longest >= context:
            raise ChatError(
                f"max_tokens is {longest}, and {name} holds {context} tokens, prompt and answer "
                "together; ask for fewer"
            )

        def count(messages: Messages) -> int:
            encoded[len(messages)] = self.assistant.encode(messages)
            return len(encoded[len(messages)])

        kept, dropped = fit(asked.messages, count, context - longest)
        return kept, encoded[len(kept)], dropped

    def close(self) -> None:
        """End all answers and the thread."""
        for answer in list(self._open):
            answer.leave()
        self._thread.shutdown(cancel_futures=True)
