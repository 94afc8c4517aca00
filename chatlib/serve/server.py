"""Models behind OpenAI's interface: chat completions, plain and streamed, and a page to chat on.

Only the models that were named are there, and they are asked by name. Without ``--host`` nobody
but this machine reaches them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from chatlib.serve import wire
from chatlib.serve.chat import Assistant, ChatError, Sampling
from chatlib.serve.desk import Answer, Desk, Full, Left
from chatlib.serve.wire import ApiError

HEADER = "X-Dropped-Turns"  # beside the field of the body, for clients that read only headers
GRACE = 5  # seconds that answers under way have when the server is told to end
# The page may run what is written in it and ask this server: nothing else, whatever a model says.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Limits:
    """What a client may ask for: bytes of a body, tokens of an answer, answers in a line."""

    body: int = 256 * 1024
    tokens: int = 256
    queue: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}; allow at least 1")


@dataclass(frozen=True)
class Access:
    """Who may ask: with a key only who knows it, on a loopback address only who names that.

    A page of another site could lead a browser here under a name of its own (DNS rebinding);
    the Host header then shows that name.
    """

    host: str = "127.0.0.1"
    key: str | None = None

    @property
    def local(self) -> bool:
        """Does the address reach this machine only?"""
        return is_loopback(self.host)

    async def check(self, request: Request) -> None:
        """Let the request pass. Raises `ApiError`."""
        if self.local and not is_loopback(request.url.hostname or ""):
            raise ApiError(403, f"this server answers on {self.host} only; use that address")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode(), self.key.encode()):
            raise ApiError(
                401,
                "the API key is missing or wrong; send `Authorization: Bearer KEY` with the key "
                "that the server was started with",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def is_loopback(host: str) -> bool:
    """Is this a name of the machine itself?"""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def build(assistants: Sequence[Assistant], limits: Limits, access: Access) -> FastAPI:
    """The application. Raises `ValueError` when two models have the same name."""
    names = [assistant.name for assistant in assistants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(twice)}: two models of this name; rename one's folder")
    desks = {assistant.name: Desk(assistant, limits.queue) for assistant in assistants}

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for desk in desks.values():
            desk.close()

    # Without the pages that FastAPI would make: they load their scripts from elsewhere.
    app = FastAPI(
        title="chatlib", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    for kind in (ApiError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, refuse)

    @app.get("/")
    async def page() -> HTMLResponse:
        text = files("chatlib.serve").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "waiting": {name: desk.waiting for name, desk in desks.items()}}

    guarded = [Depends(access.check)]

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> dict[str, Any]:
        return wire.models(desks.values())

    @app.post("/v1/chat/completions", dependencies=guarded)
    async def complete(request: Request) -> Response:
        asked = wire.parse(await body(request, limits.body))
        if asked.model not in desks:
            message = f"no model `{asked.model[: wire.SHOWN]}`; this server has {', '.join(desks)}"
            raise ApiError(404, message, "model", "model_not_found")
        return await respond(request, asked, desks[asked.model], limits)

    return app


async def respond(request: Request, asked: wire.Request, desk: Desk, limits: Limits) -> Response:
    """Wait for the turn, then answer, at once or piece by piece."""
    sampling = sampled(asked, limits)
    try:
        answer = desk.ask(asked.dialogue(), sampling)
    except Full as full:
        headers = {"Retry-After": str(full.seconds)}
        raise ApiError(429, str(full), code="queue_full", headers=headers) from None
    answer.watch = asyncio.create_task(watch(request, answer))
    try:
        await answer.begun()
    except Left:
        return Response(status_code=499)  # nobody reads it
    except ChatError as error:
        raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
    completion = wire.Completion(asked, answer)
    headers = {HEADER: str(answer.dropped), "Cache-Control": "no-store"}
    if asked.stream:
        return StreamingResponse(completion.chunks(), 200, headers, "text/event-stream")
    return JSONResponse(await completion.whole(), headers=headers)


async def watch(request: Request, answer: Answer) -> None:
    """End the answer when its client leaves, streamed or not."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    answer.leave()


def sampled(asked: wire.Request, limits: Limits) -> Sampling:
    """How the answer is drawn; without a seed no two are the same. Raises `ApiError`."""
    longest = asked.longest or min(Sampling.max_new_tokens, limits.tokens)
    if longest > limits.tokens:
        message = f"`max_tokens` is {longest}, and this server gives at most {limits.tokens}"
        raise ApiError(400, f"{message} (--max-tokens); ask for fewer", "max_tokens")
    seed = random.randrange(wire.SEEDS) if asked.seed is None else asked.seed
    return Sampling(asked.temperature or 0.0, longest, seed)


async def body(request: Request, most: int) -> bytes:
    """The body of a request, which is not read beyond ``most`` bytes. Raises `ApiError`."""
    # A form of another site's page can send no other type unasked; JSON it may not.
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise ApiError(415, "send the request with `Content-Type: application/json`")
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > most:
            message = f"the body has more than {most} bytes, which is all that this server reads"
            raise ApiError(413, f"{message} (--max-body); send fewer or shorter messages")
    return bytes(read)


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Every error in OpenAI's shape."""
    if isinstance(error, HTTPException):
        known = "POST /v1/chat/completions, GET /v1/models, GET /health, GET /"
        message = f"{request.method} {request.url.path[: wire.SHOWN]} is not here; there is {known}"
        error = ApiError(error.status_code, message)
    told = error if isinstance(error, ApiError) else wire.broken(error)
    # What was not read of the body would be taken for the next request.
    close = {"Connection": "close"} if told.status in (413, 415) else {}
    return JSONResponse(told.body(), told.status, {**(told.headers or {}), **close})


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts. Raises `ValueError` with the remedy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        why = str(error.strerror or error).split(" (while")[0]  # which repeats the address
        raise ValueError(
            f"cannot listen on {host}, port {port} ({why}); "
            "choose another with --port, or an address of this machine with --host"
        ) from None


def serve(
    assistants: Sequence[Assistant], limits: Limits, access: Access, listening: socket.socket
) -> int:
    """Answer until SIGTERM or Ctrl-C; answers under way then have a few seconds to end."""
    import uvicorn

    app = build(assistants, limits, access)
    host, port = listening.getsockname()[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"{', '.join(a.name for a in assistants)} at {where}/v1, a page at {where}/", flush=True)
    if not access.local and not access.key:
        print("whoever reaches this address may ask: set --api-key", file=sys.stderr)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it again once it has ended
    uvicorn.Server(config).run(sockets=[listening])
    return 0
