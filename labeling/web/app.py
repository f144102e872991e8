"""The labeling app as a FastAPI application: `create_app(store)`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from labeling import people
from labeling.store import Store
from labeling.web import account, api, asking, labeling, operating
from labeling.web.asking import Answer
from labeling.web.pages import page
from labeling.web.security import Guard, Operator, SignInFirst
from labeling.work import Gone
from rlhf.data.errors import DataError

TITLES = {401: "Sign in again", 403: "Not allowed", 404: "Not found"}
HERE = Path(__file__).parent


def create_app(
    store: Store, answer: Answer | None = None, idle: float = people.SESSION_IDLE, clock: Any = time.time
) -> FastAPI:
    """The app on a store.

    Args:
        store: where everything is kept.
        answer: the served model, `answer(prompt, n) -> list[str]`; without it `/ask` says that there is none.
        idle: seconds without a request after which a session ends.
        clock: seconds since 1970.
    """
    app = FastAPI(title="Labeling", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store, app.state.answer, app.state.idle, app.state.clock = store, answer, idle, clock
    app.state.sign_ins = CapacityLimiter(people.HASHES)
    app.add_middleware(Guard)
    for module in (labeling, api, account, asking, operating):  # tried in turn, so the most used stand first
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")

    @app.get("/openapi.json", tags=["api"])
    def openapi(_: Operator) -> dict[str, Any]:
        """The description of all routes."""
        return app.openapi()

    app.add_exception_handler(SignInFirst, sign_in_first)
    app.add_exception_handler(DataError, data_error)
    app.add_exception_handler(StarletteHTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    return app


def sign_in_first(request: Request, _: Exception) -> Response:
    """401 for programs, the sign-in page for people, who come back to where they were."""
    if request.url.path.startswith("/api/") or request.method != "GET":
        return message_response(request, 401, "sign in first; your session may have ended")
    return RedirectResponse(f"/login?to={quote(request.url.path)}", 303)


def data_error(request: Request, error: Exception) -> Response:
    """The response where what was sent cannot be used (400), or what was asked for is not there (404)."""
    return message_response(request, 404 if isinstance(error, Gone) else 400, str(error))


def http_error(request: Request, error: Exception) -> Response:
    """The response to any other refusal, such as not found or not allowed."""
    assert isinstance(error, StarletteHTTPException)
    message = "there is no such page" if error.status_code == 404 else str(error.detail)
    return message_response(request, error.status_code, message, error.headers)


def validation_error(request: Request, error: Exception) -> Response:
    """The response where a field is missing or out of bounds; it names the first."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    return message_response(request, 422, f"{field}: {first['msg'].lower()}")


def message_response(request: Request, status: int, message: str, headers: Any = None) -> Response:
    """A message, as JSON for programs and as a page for people."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": message}, status, headers)
    user = getattr(request.state, "user", None)
    values = {
        "title": TITLES.get(status, "That did not work"),
        "message": message,
        "back": came_from(request),
    }
    return page("message.html", user, status, headers, sign_in=status == 401, **values)


def came_from(request: Request) -> str:
    """The path of the page of this site that the request came from, else the start."""
    try:
        page_before = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return "/"
    again = request.method == "GET" and page_before.path == request.url.path
    if page_before.netloc != request.headers.get("host") or again:
        return "/"
    return account.inside(page_before.path + (f"?{page_before.query}" if page_before.query else ""))
