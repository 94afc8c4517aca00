"""What goes over the wire: OpenAI's chat completions as typed requests, answers, chunks, errors."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from chatlib.serve.chat import Messages, printable
from chatlib.serve.desk import Answer, Desk

DROPPED = "dropped_turns"  # our one field beyond OpenAI's: how many oldest turns did not fit
SHOWN = 60  # characters of a bad value that an error repeats
SEEDS = 2**53  # integers that every JSON reader keeps


class ApiError(Exception):
    """A request that is refused: status, a sentence with the remedy, the field, a code."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """As OpenAI writes errors."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        about = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": about}


class _Strict(BaseModel):
    """No unknown field, no number in quotes."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Message(_Strict):
    """One message; its text comes as a string or in parts."""

    role: Literal["system", "user", "assistant"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, content: object) -> object:
        """Text parts joined, and without control characters."""
        if isinstance(content, list):
            if not all(isinstance(p, dict) and p.get("type") == "text" for p in content):
                raise ValueError("only parts of type 'text' are understood; leave the others out")
            content = "".join(str(part.get("text", "")) for part in content)
        return printable(content) if isinstance(content, str) else content


class StreamOptions(_Strict):
    """What a stream brings beside the text."""

    include_usage: bool = False


class Request(_Strict):
    """A chat completion as it is asked for; a field that is not here is refused by its name."""

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-SEEDS, le=SEEDS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: list[str] | None = Field(None, max_length=4)
    n: Literal[1] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, stop: object) -> object:
        """One or several texts that end the answer."""
        stops = [stop] if isinstance(stop, str) else stop
        if isinstance(stops, list) and "" in stops:
            raise ValueError("an empty text would end every answer; leave it out")
        return stops

    @model_validator(mode="after")
    def _order(self) -> Request:
        """What the dialogue system knows: facts come first, and the customer speaks last."""
        if any(m.role == "system" for m in self.messages[1:]):
            raise ValueError("a system message may only be the first; move it there")
        if self.messages[-1].role != "user" or not self.messages[-1].content.strip():
            raise ValueError("the last message must be the user's, and have text")
        return self

    @property
    def longest(self) -> int | None:
        """Tokens of the longest answer, if the client said so."""
        return self.max_completion_tokens or self.max_tokens

    def dialogue(self) -> Messages:
        """The messages as the dialogue system keeps them."""
        return [message.model_dump() for message in self.messages]


def parse(body: bytes) -> Request:
    """Read a request. Raises `ApiError` that names the first fields that are wrong."""
    try:
        return Request.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False)[:4]
        field = ".".join(map(str, found[0]["loc"])) or None
        raise ApiError(400, "; ".join(map(_sentence, found)), field) from None


def _sentence(item: Any) -> str:
    """What is wrong with one field, and what it may be."""
    field = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"`{field}` is not supported here; leave it out"
    if item["type"] == "json_invalid":
        return f"the body is not JSON ({item['ctx']['error']}); send one object"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("missing", "value_error", "model_type"):
        return f"{f'`{field}`' if field else 'the body'}: {message}"
    return f"`{field}` is {repr(item['input'])[:SHOWN]}: {message}"


class Stops:
    """Lets text through up to the first stop text; what may be the beginning of one waits."""

    def __init__(self, stops: list[str]) -> None:
        self.stops, self.held, self.found = stops, "", False

    def feed(self, piece: str) -> str:
        """What of the text so far can go out now."""
        if self.found:
            return ""
        text = self.held + piece
        places = [text.find(stop) for stop in self.stops if stop in text]
        self.found = bool(places)
        begun = [n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        end = min(places, default=len(text) - max(begun, default=0))
        self.held = "" if self.found else text[end:]
        return text[:end]


class Completion:
    """One answer in OpenAI's words: whole, or as a stream of chunks."""

    def __init__(self, request: Request, answer: Answer) -> None:
        self.request, self.answer = request, answer
        self.stops = Stops(request.stop or [])
        self.head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}"}
        self.head |= {"created": int(time.time()), "model": request.model}
        self.head[DROPPED] = answer.dropped

    async def text(self) -> AsyncIterator[str]:
        """The answer as it may be shown; where a stop text comes, the model stops too."""
        try:
            async for piece in self.answer.pieces():
                if shown := self.stops.feed(printable(piece)):
                    yield shown
                if self.stops.found:
                    self.answer.asked.stop.set()
            if self.stops.held:
                yield self.stops.held
        finally:
            self.answer.leave()

    def _ended(self) -> str:
        return "length" if self.answer.asked.cut and not self.stops.found else "stop"

    def _usage(self) -> dict[str, int]:
        asked, given = self.answer.prompt_tokens, self.answer.asked.tokens
        return {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        text = "".join([piece async for piece in self.text()])
        message = {"role": "assistant", "content": text}  # which can be posted back as it is
        choice = {"index": 0, "message": message, "finish_reason": self._ended(), "logprobs": None}
        body = {"object": "chat.completion", "choices": [choice], "usage": self._usage()}
        return self.head | body

    async def chunks(self) -> AsyncIterator[str]:
        """The same as server-sent events; an error in mid-answer is the last of them."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async for piece in self.text():
                yield self._chunk({"content": piece})
        except Exception as error:
            logging.getLogger("uvicorn.error").exception("an answer broke off")
            yield _event(broken(error).body())
            return
        yield self._chunk({}, self._ended())
        if self.request.stream_options and self.request.stream_options.include_usage:
            body = {"object": "chat.completion.chunk", "choices": [], "usage": self._usage()}
            yield _event(self.head | body)
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, str], ended: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": ended, "logprobs": None}
        return _event(self.head | {"object": "chat.completion.chunk", "choices": [choice]})


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def broken(error: BaseException) -> ApiError:
    """What a client is told when the fault is the server's; the details stay in its log."""
    name = type(error).__name__
    return ApiError(500, f"the model failed ({name}); the server's log says why, try again later")


def models(desks: Iterable[Desk]) -> dict[str, Any]:
    """The list of models."""
    rows = [
        {"id": d.assistant.name, "object": "model", "created": d.since, "owned_by": "chatlib"}
        for d in desks
    ]
    return {"object": "list", "data": rows}
