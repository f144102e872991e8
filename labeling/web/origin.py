"""A guard in front of a server: only requests that name it as host, sent by its own pages or by no page.

A server on loopback is reached by every page that is open in the user's browser. The page's origin shows
what comes from elsewhere, and the host's name what reaches this address under another name (DNS rebinding).
Programs send no origin.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rlhf.data.hosts import is_loopback


class SameOrigin:
    """ASGI middleware that answers 403 to a request from elsewhere, and closes such a websocket.

    Args:
        app: the server's application.
        names: other host names of this server than those of the loopback interface.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self.app, self.names = app, frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            reason = foreign(headers.get("host", ""), headers.get("origin"), self.names)
            if reason and scope["type"] == "http":
                await PlainTextResponse(f"refused: {reason}\n", 403)(scope, receive, send)
                return
            if reason:
                await send({"type": "websocket.close", "code": 1008, "reason": reason})
                return
        await self.app(scope, receive, send)


def foreign(host: str, origin: str | None, names: Collection[str]) -> str | None:
    """Why a request does not belong to this server; None if it does.

    Args:
        host: the request's header `Host`.
        origin: its header `Origin`, which browsers send with every request by which a page could do harm.
        names: other host names of this server, in lower case.
    """
    own = _split(f"//{host}")
    if own is None or not _is_own(own.hostname, names):
        return f"this server is not {host or 'without a name'}"
    if origin is None or origin.split("://")[-1] == host:
        return None
    page = _split(origin)
    # 127.0.0.1 and localhost are the same server; another port is another server.
    if page and page.scheme == "http" and page.port == own.port and _is_own(page.hostname, names):
        return None
    return f"the page of {origin} is not of this server"


def _is_own(name: str | None, names: Collection[str]) -> bool:
    return is_loopback(name) or name in names


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises where it is no number)
    except ValueError:
        return None
    return parts
