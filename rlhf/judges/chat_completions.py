"""One request to any HTTP endpoint that speaks OpenAI's chat completions, and what its failure means."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from rlhf.data.errors import DataError
from rlhf.judges.endpoints import DEFAULT_KEY, Allowed, key_for, load_allowed

LIMIT = "max_tokens"  # what most models call the most tokens of a reply
_OTHER_LIMIT = "max_completion_tokens"  # what those call it that think first
_thinking: set[tuple[str, str]] = set()  # (url, model) of those that asked for the other name
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
        url: base URL of the API, e.g. `http://127.0.0.1:8000/v1`.
        model: the model's name there.
        key_variable: environment variable that holds the API key; an empty or missing one sends no key.
        allowed: hosts that may be asked, and the variables that each may get; see `rlhf.judges.endpoints`.
        temperature: of sampling; 0 for judging; None where the model takes none.
        reply_tokens: most tokens of a reply; None where the model takes no such limit.
        timeout: seconds a request may take.
        concurrency: requests under way at once.
        attempts: tries a request before the run ends.
        backoff: seconds before the first retry; doubled each time, with jitter, unless the endpoint names a
            time.
        longest_wait: most seconds between two tries; an endpoint that asks for more ends the run.
    """

    url: str
    model: str
    key_variable: str = DEFAULT_KEY
    allowed: Allowed = field(default_factory=load_allowed)
    temperature: float | None = 0.0
    reply_tokens: int | None = 500
    timeout: float = 60.0
    concurrency: int = 4
    attempts: int = 6
    backoff: float = 1.0
    longest_wait: float = 120.0


class Unavailable(Exception):
    """The endpoint did not answer this time; `wait` is how many seconds it asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def headers(endpoint: Endpoint) -> dict[str, str]:
    """The headers that carry the key; none where none is to be sent.

    Raises:
        DataError: the endpoint may not be asked or get this key, or the key is no key.
    """
    secret = key_for(endpoint.url, endpoint.key_variable, endpoint.allowed)
    if not secret.isascii():
        raise DataError(f"{endpoint.key_variable}: an API key has plain ASCII characters only")
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def post(client: httpx.Client, url: str, key: str, request: dict[str, Any]) -> tuple[str, int]:
    """Send one request.

    Args:
        client: with the headers of the endpoint.
        url: the endpoint's base URL.
        key: names the request, so that a server may answer it once however often it is sent.
        request: the body.

    Returns:
        Text and tokens of the reply.

    Raises:
        Unavailable: the endpoint may answer another time.
        DataError: it will not answer this request.
    """
    try:
        place, named = url.rstrip("/") + "/chat/completions", {"Idempotency-Key": key}
        asked, model = request, (url, str(request.get("model")))
        if model in _thinking:
            asked = _renamed(request)
        response = client.post(place, json=asked, headers=named)
        if response.status_code == 400 and LIMIT in asked and _OTHER_LIMIT in response.text:
            _thinking.add(model)
            response = client.post(place, json=_renamed(request), headers=named)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL):
        raise DataError(
            f"{url}: no such kind of URL; give one that begins with http:// or https://"
        ) from None
    except httpx.TimeoutException:
        raise Unavailable("no answer in time") from None
    except httpx.TransportError as error:
        raise Unavailable(f"no connection ({type(error).__name__})") from None
    said = " ".join(response.text.split())[:120]
    if response.status_code in _RETRIED:
        raise Unavailable(f"status {response.status_code} ({said})", _retry_after(response))
    if response.status_code != 200:
        mend = "check the URL, the model's name and the key"
        if response.status_code == 400 and "temperature" in response.text:
            mend = "evaluate.llm.temperature: null leaves the temperature out"
        raise DataError(f"{url}: status {response.status_code} ({said}); {mend}")
    try:
        body = response.json()
        if "choices" not in body and body.get("error"):
            raise Unavailable(f"status 200 with an error ({said})")
        text = _text(body["choices"][0]["message"]["content"])
        tokens = int((body.get("usage") or {}).get("total_tokens") or _guess(request, text))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Unavailable(f"an answer that is no chat completion ({said})") from None
    return text, tokens


def _renamed(request: dict[str, Any]) -> dict[str, Any]:
    return {_OTHER_LIMIT if name == LIMIT else name: value for name, value in request.items()}


def _text(content: Any) -> str:
    """The text of a reply, which may come in parts; none of a refusal."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and part.get("text"))
    return content if isinstance(content, str) else ""


def _guess(request: dict[str, Any], reply: str) -> int:
    """Tokens where the endpoint counts none: one for four characters, so that a limit holds there too."""
    return (sum(len(message["content"]) for message in request["messages"]) + len(reply)) // 4


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the endpoint asks for, given as such or as a date; None where it asks for none."""
    asked = response.headers.get("Retry-After")
    if asked is None:
        return None
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
