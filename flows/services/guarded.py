"""Prefect's and MLflow's servers behind a guard: `python -m flows.services.guarded prefect|mlflow`.

Alone, Prefect's server answers every page that is open in the user's browser, and MLflow's those of every
other port of this machine, where pages show what models wrote. `SameOrigin` refuses both. A password in the
environment variable `RLHF_SIGN_IN` (name:password) makes both ask for it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import base64
import hmac
import os
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling.web.origin import SameOrigin

SIGN_IN = "RLHF_SIGN_IN"
HEALTH = "/health"  # needs no password, so that others can see whether the server is there
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"SAMEORIGIN")]


class SignIn:
    """ASGI middleware that asks for a name and a password (HTTP Basic) and limits what the pages may do.

    No other site can show them in a frame, and they connect to this server alone: Prefect's pages would
    otherwise send what is clicked to an analytics service.

    Args:
        app: the server's application.
        secret: `name:password`; None lets everybody in.
        own: other origins that are this server.
    """

    def __init__(self, app: ASGIApp, secret: str | None, own: Collection[str] = ()) -> None:
        self.app, self.secret = app, secret
        origins = " ".join(sorted(own))
        policy = f"connect-src 'self' {origins}; frame-ancestors 'self'"
        self.headers = [(b"content-security-policy", policy.encode()), *HEADERS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in self.headers}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in names]
                message["headers"] = [*kept, *self.headers]
            await send(message)

        header = Headers(scope=scope).get("authorization")
        if scope["path"] != HEALTH and not signed_in(header, self.secret):
            refusal = PlainTextResponse("sign in\n", 401, {"WWW-Authenticate": 'Basic realm="rlhf"'})
            await refusal(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


def signed_in(header: str | None, secret: str | None) -> bool:
    """Whether a header `Authorization` has the name and password `secret`; without one all are let in."""
    expected = authorization(secret).get("Authorization", "")
    return not secret or hmac.compare_digest((header or "").encode(), expected.encode())


def authorization(secret: str | None) -> dict[str, str]:
    """The header of a request with the name and password `secret`; none without."""
    return {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()} if secret else {}


def prefect_app(host: str, port: int, names: Collection[str]) -> ASGIApp:
    """Prefect's server; it asks for the password itself, so that its pages have a form for it."""
    own = [f"http://{name}:{port}" for name in ("127.0.0.1", "localhost", *names)]
    os.environ["PREFECT_SERVER_API_HOST"], os.environ["PREFECT_SERVER_API_PORT"] = host, str(port)
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(own)  # none but these are answered at all
    if os.environ.get(SIGN_IN):
        os.environ["PREFECT_SERVER_API_AUTH_STRING"] = os.environ[SIGN_IN]
        os.environ["PREFECT_API_AUTH_STRING"] = os.environ[SIGN_IN]  # for the services inside the server

    from prefect.server.api.server import create_app

    pages = os.environ.get("PREFECT_UI_API_URL", "").removesuffix("/api")
    return SignIn(create_app(final=True), None, {*own, *filter(None, [pages])})


def mlflow_app() -> ASGIApp:
    """MLflow's server on the stores that the environment names."""
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    store, artifacts = os.environ["MLFLOW_BACKEND_STORE_URI"], os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = store
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = store
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = artifacts
    # MLflow's own check would let in the pages of every port of this machine, and refuse those of this
    # server's other names.
    os.environ["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] = "true"
    initialize_backend_stores(store, store, artifacts)

    from mlflow.server.fastapi_app import app

    return SignIn(app, os.environ.get(SIGN_IN))


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.services.guarded",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("server", choices=("prefect", "mlflow"))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", action="append", default=[], help="another host name of this server")
    arguments = parser.parse_args()
    host, port, names = arguments.host, arguments.port, arguments.name
    app = mlflow_app() if arguments.server == "mlflow" else prefect_app(host, port, names)
    serve(SameOrigin(app, names), host, port)


def serve(app: Any, host: str, port: int) -> None:
    """Serve an application in this process until it is stopped."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)


if __name__ == "__main__":
    main()
