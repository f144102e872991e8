"""What guards every request: size, origin, response headers; and who is signed in.

Unsafe methods are refused unless the browser says that they come from this site (`Sec-Fetch-Site`, with
`Origin` as fallback), or the request carries a token of its own instead of a cookie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import Depends, HTTPException, Request
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling import people
from labeling.people import User
from labeling.sqlite import Result
from labeling.store import Store

COOKIE = "feedback_session"  # another name would sign everybody out
MOST_BYTES = 32 * 2**20  # of a request's body: files of items are uploaded
HEADERS = [  # as ASGI has them
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
NO_STORE = (b"cache-control", b"no-store")
KEEP = (b"cache-control", b"public, max-age=31536000, immutable")


class Guard:
    """ASGI middleware that refuses what comes from elsewhere and adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Pages name static files with the hash of their content, so a browser may keep them.
                static = scope["path"].startswith("/static/") and message["status"] == 200
                message["headers"] = [*message["headers"], *HEADERS, KEEP if static else NO_STORE]
            await send(message)

        refusal = refuse(scope["method"], Headers(scope=scope))
        if refusal:
            code, reason = refusal
            await PlainTextResponse(reason + "\n", code)(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


def refuse(method: str, headers: Headers) -> tuple[int, str] | None:
    """Status and reason where a request is refused; None where it is served."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return None
    if "transfer-encoding" in headers:
        return 411, "send a Content-Length"
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MOST_BYTES:
        return 413, f"a request may have {MOST_BYTES // 2**20} MiB"
    if headers.get("authorization", "").startswith("Bearer "):
        return None  # no cookie is read, so there is nothing to forge
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site in ("same-origin", "none"):
        return None
    if site is None and origin and urlsplit(origin).netloc == headers.get("host"):
        return None
    return 403, "refused: this request does not come from a page of this site"


def token_of(request: Request) -> str | None:
    """The session's token, from the header or else from the cookie."""
    header = request.headers.get("authorization", "")
    if header.startswith("Bearer "):
        return header.removeprefix("Bearer ").strip()
    return request.cookies.get(COOKIE)


class SignInFirst(Exception):
    """Nobody is signed in: pages lead to the sign-in page, the API answers 401."""


async def token_needed(request: Request) -> str:
    """The session's token, which `identify` has yet to look up."""
    token = token_of(request)
    if token is None:
        raise SignInFirst
    return token


Token = Annotated[str, Depends(token_needed)]


def identify(request: Request, tx: sa.Connection, token: str) -> tuple[User, bool]:
    """Whose session it is, and whether it is time to note that it is in use. It is one indexed read.

    Raises:
        SignInFirst: there is no such session, or it has ended.
    """
    session = people.user_of(tx, token, request.app.state.idle)
    if session is None:
        raise SignInFirst
    user, seen = session
    request.state.user = user
    return user, seen < request.app.state.clock() - people.SEEN_EVERY


def signed_in(request: Request, token: Token) -> User:
    """Who is signed in, whatever their role."""
    store = request.app.state.store
    with store.read() as tx:
        user, stale = identify(request, tx, token)
    if stale:
        note_seen(store, token)
    return user


def note_seen(store: Store, token: str) -> None:
    """Note that a session is in use."""
    store.together(lambda tx: people.note_seen(tx, token))


def write_as(request: Request, token: str, work: Callable[[sa.Connection, User], Result]) -> Result:
    """Run `work(tx, user)` as the user whose session it is, in a transaction that `Store.together` shares."""

    def work_as_user(tx: sa.Connection) -> Result:
        user, stale = identify(request, tx, token)
        if stale:
            people.note_seen(tx, token)
        return work(tx, user)

    store: Store = request.app.state.store
    return store.together(work_as_user)


def operator(user: Annotated[User, Depends(signed_in)]) -> User:
    """Who is signed in, where that is an operator."""
    if not user.operator:
        raise HTTPException(403, "this page is for operators")
    return user


SignedIn = Annotated[User, Depends(signed_in)]
Operator = Annotated[User, Depends(operator)]
