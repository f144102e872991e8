"""The HTTP server: OpenAI's /v1/chat/completions, /v1/completions and /v1/models over an `Engine`."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.serving.answers import Answers, ChatAnswers, TextAnswers
from flows.serving.engine import Broken, Busy, Engine, Event, Job, Piece, Question
from flows.serving.requests import MOST_CHOICES, ChatRequest, Refused, Request, TextRequest, read
from rlhf.data.errors import DataError
from rlhf.models.template import Row, as_row

LARGEST_BODY = 8 << 20  # bytes
HEALTH = "/health"


@dataclass(frozen=True)
class Served:
    """What is served, and how it answers where a request does not say.

    Attributes:
        names: what a request may call the model; the first is the one that answers carry.
        fingerprint: of the weights.
        temperature, longest: as the policy was evaluated.
        created: when, in seconds since 1970.
    """

    names: tuple[str, ...]
    fingerprint: str
    temperature: float
    longest: int
    created: int

    def card(self, name: str) -> dict[str, Any]:
        """OpenAI's model object."""
        return {"id": name, "object": "model", "created": self.created, "owned_by": "rlhf-pipeline"}


def create_app(engine: Engine, served: Served, key: str | None = None) -> ASGIApp:
    """The application.

    Args:
        engine: answers; closed when the server stops.
        served: names and defaults.
        key: what clients must send as `Authorization: Bearer ...`; None asks for nothing.
    """
    server = _Server(engine, served)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    routes = [
        Route(HEALTH, lambda request: PlainTextResponse("ok\n")),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.model),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/completions", server.completions, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {Refused: _refused, HTTPException: _no_route, 500: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    return Key(app, key)


class Key:
    """ASGI middleware that answers 401 to requests without the key; `/health` needs none."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] == "http" and self.key and scope["path"] != HEALTH:
            sent = Headers(scope=scope).get("authorization", "")
            if not hmac.compare_digest(sent.encode("latin-1"), f"Bearer {self.key}".encode()):
                error = Refused(
                    "Incorrect API key provided. The server's key is wanted.", None, "invalid_api_key", 401
                )
                refusal = JSONResponse(error.body(), 401, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


class _Server:
    """The endpoints."""

    def __init__(self, engine: Engine, served: Served) -> None:
        self.engine, self.served = engine, served

    async def models(self, request: HttpRequest) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [self.served.card(n) for n in self.served.names]})

    async def model(self, request: HttpRequest) -> Response:
        """GET /v1/models/{name}"""
        name = request.path_params["name"]
        self._known(name)
        return JSONResponse(self.served.card(name))

    async def chat(self, request: HttpRequest) -> Response:
        """POST /v1/chat/completions"""
        return await self._answer(request, ChatRequest, ChatAnswers)

    async def completions(self, request: HttpRequest) -> Response:
        """POST /v1/completions"""
        return await self._answer(request, TextRequest, TextAnswers)

    async def _answer(self, http: HttpRequest, kind: type[Request], shape: type[Answers]) -> Response:
        asked = read(kind, await _body(http))
        self._known(asked.model)
        rows = [as_row(prompt) for prompt in asked.prompts()]
        prompts = await asyncio.to_thread(self._prompts, asked, rows)
        question = self._question(asked, rows, prompts)
        answers = shape(
            self.served.names[0],
            self.served.fingerprint,
            len(question.prompts),
            sum(len(ids) for ids in prompts),
        )
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            job = self.engine.ask(question, deliver)
        except Busy as error:
            raise Refused(str(error), None, "server_busy", 429) from None
        if asked.stream:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return StreamingResponse(
                _stream(job, events, answers, usage),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )
        return await _whole(http, job, events, answers)

    def _known(self, name: str) -> None:
        if name not in self.served.names:
            raise Refused(
                f"The model '{name[:80]}' does not exist; this server has '{self.served.names[0]}'.",
                "model",
                "model_not_found",
                404,
            )

    def _prompts(self, asked: Request, rows: list[Row]) -> list[list[int]]:
        """Ids of the prompts, which leave room for an answer."""
        where = "messages" if isinstance(asked, ChatRequest) else "prompt"
        try:
            prompts = [self.engine.prompt(row) for row in rows]
        except DataError as error:
            raise Refused(str(error), where) from None
        longest, context = max(map(len, prompts)), self.engine.policy.context
        if longest + (asked.longest or 1) > context:
            wanted = f", and {asked.longest} for the answer" if asked.longest else ""
            raise Refused(
                f"This model's maximum context length is {context} tokens. The request has {longest} in "
                f"'{where}'{wanted}. Shorten it.",
                where,
                "context_length_exceeded",
            )
        if not all(prompts):
            raise Refused("a prompt has no tokens", where)
        return prompts

    def _question(self, asked: Request, rows: list[Row], prompts: list[list[int]]) -> Question:
        n = asked.n or 1
        if n * len(prompts) > MOST_CHOICES:
            raise Refused(f"{len(prompts)} prompts with n={n} are more than {MOST_CHOICES} choices.", "n")
        room = self.engine.policy.context - max(map(len, prompts))
        served = self.served
        return Question(
            rows=[row for row in rows for _ in range(n)],
            prompts=[ids for ids in prompts for _ in range(n)],
            longest=asked.longest or min(served.longest, room),
            temperature=served.temperature if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=secrets.randbits(63) if asked.seed is None else asked.seed,
            stops=asked.stop or (),
        )


async def _body(request: HttpRequest) -> Any:
    """The JSON of a body that is not too large."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise Refused(f"the body has more than {LARGEST_BODY} bytes", None, "request_too_large", 413)
        chunks.append(chunk)
    try:
        return from_json(b"".join(chunks), allow_inf_nan=False)
    except ValueError as error:
        raise Refused(f"the body is not JSON: {error}") from None


async def _whole(http: HttpRequest, job: Job, events: asyncio.Queue[Event], answers: Answers) -> Response:
    """One answer when all choices have ended; sampling ends when the client goes."""

    async def collect() -> None:
        while not answers.complete:
            answers.add(_checked(await events.get()))

    collecting = asyncio.create_task(collect())
    leaving = asyncio.create_task(_until_gone(http.receive))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=499)  # nobody reads it
        collecting.result()
        return JSONResponse(answers.whole())
    finally:
        job.cancel()
        collecting.cancel()
        leaving.cancel()


async def _until_gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stream(
    job: Job, events: asyncio.Queue[Event], answers: Answers, usage: bool
) -> AsyncIterator[str]:
    """Server-sent events; sampling ends when the client goes, which closes this iterator."""
    try:
        for chunk in answers.first(usage):
            yield _event(chunk)
        while not answers.complete:
            piece = _checked(await events.get())
            answers.add(piece)
            yield _event(answers.chunk(piece, usage))
        if usage:
            yield _event(answers.last())
        yield "data: [DONE]\n\n"
    except Refused as error:
        yield _event(error.body())
    finally:
        job.cancel()


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _checked(event: Event) -> Piece:
    if isinstance(event, Broken):
        raise Refused(str(event), None, "internal_error", 500)
    return event


async def _refused(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, Refused)
    more = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body(), error.status, more)


async def _no_route(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path[:80]}"
    return JSONResponse(Refused(message, status=error.status_code).body(), error.status_code, error.headers)


async def _failed(request: HttpRequest, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    return JSONResponse(Refused("the server failed", None, "internal_error", 500).body(), 500)
