"""Where a language model may be asked, and which key may go there: `llm` in services.yaml.

The URL and the name of the key's variable are parameters, which everybody may set who can start a run. What
they may be is for the operator of the machine to say: its environment has other secrets, and prompts may be
confidential.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from rlhf.data.errors import DataError
from rlhf.data.hosts import is_loopback

Allowed = Mapping[
    str, Sequence[str]
]  # host, or host:port -> environment variables with keys that may go there
DEFAULT_KEY = "OPENAI_API_KEY"
DEFAULT: Allowed = {"api.openai.com": [DEFAULT_KEY]}
SERVICES = Path("services.yaml")
_SCHEMA = TypeAdapter(dict[str, list[str]])


def load_allowed(path: Path = SERVICES) -> Allowed:
    """Read `llm` of services.yaml; without it, OpenAI's API with its usual key.

    Raises:
        DataError: not a mapping of hosts to lists of variables.
    """
    try:
        written = (yaml.safe_load(path.read_text()) or {}).get("llm")
        return DEFAULT if written is None else _SCHEMA.validate_python(written)
    except FileNotFoundError:
        return DEFAULT
    except (yaml.YAMLError, ValidationError, AttributeError):
        raise DataError(f"{path}: llm: write a list of variables for each host, such as {DEFAULT}") from None


def key_for(url: str, variable: str, allowed: Allowed) -> str:
    """The key to send to a language model; empty where none is to be sent.

    This machine itself may be asked without being named, then without a key.

    Args:
        url: base URL of the API.
        variable: the environment variable with the key.
        allowed: what the operator allows.

    Raises:
        DataError: the URL is none, or its host or the variable is not allowed.
    """
    import httpx  # here, for commands that ask no model

    try:
        parts = httpx.URL(url)  # read as the client reads it
        host = parts.host
    except (httpx.InvalidURL, UnicodeError) as error:  # the latter of a name that is no domain
        raise DataError(f"evaluate.llm.url {' '.join(url.split())}: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise DataError(f"evaluate.llm.url {url}: give one that begins with http:// or https://")
    variables = allowed.get(f"{host}:{parts.port}", allowed.get(host))
    if variables is None and not is_loopback(host):
        raise DataError(
            f"evaluate.llm.url: prompts may not be sent to {host}; hosts that may get them stand in "
            f"{SERVICES} under llm"
        )
    if variable in (variables or []):
        if parts.scheme == "http" and not is_loopback(host):
            raise DataError(f"evaluate.llm.url {url}: a key goes over https only")
        return os.environ.get(variable, "").strip()
    if variables or variable != DEFAULT_KEY:
        raise DataError(
            f"evaluate.llm.key_variable: {variable} may not be sent to {host}; variables that may "
            f"stand in {SERVICES} under llm"
        )
    return ""
