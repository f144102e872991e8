"""services.yaml: the services' ports and stores, and what a program has to know to use them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf.data.errors import DataError
from rlhf.data.hosts import is_loopback
from rlhf.judges.endpoints import DEFAULT
from rlhf.settings.yaml_text import YamlError, yaml_value

CONFIG = Path("services.yaml")
SHORTEST_PASSWORD = 16
EVERY_ADDRESS = ("0.0.0.0", "::")


class Part(BaseModel):
    """A part of services.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Part):
    """A service that listens."""

    port: int = Field(ge=1, le=65535)
    database: str | None = None


class Tracking(Server):
    """MLflow."""

    artifacts: str | None = None


class Pages(Part):
    """A service without a store: the reports of the runs, and the served policy."""

    port: int = Field(ge=1, le=65535)


class Worker(Part):
    """The process that starts flow runs."""

    pool: str
    runs: int = Field(ge=1, le=1000)


class Config(Part):
    """All of services.yaml."""

    host: str = "127.0.0.1"
    names: list[str] = []
    llm: dict[str, list[str]] = {host: list(variables) for host, variables in DEFAULT.items()}
    sign_in: str | None = Field(default=None, pattern=r"^[^:\s]+:\S.*$")
    prefect: Server = Server(port=4200)
    mlflow: Tracking = Tracking(port=5000)
    label: Server = Server(port=8600)
    pages: Pages = Pages(port=8700)
    serve: Pages = Pages(port=8800)
    worker: Worker = Worker(pool="rlhf", runs=2)

    def url(self, name: str) -> str:
        """Where a service is reached from this machine."""
        host = "127.0.0.1" if self.host in EVERY_ADDRESS else self.host
        in_url = f"[{host}]" if ":" in host else host
        return f"http://{in_url}:{getattr(self, name).port}"

    def host_names(self) -> list[str]:
        """What this machine may be called in a request, besides the names of the loopback interface."""
        if is_loopback(self.host):
            return self.names
        addresses = [
            address.address.split("%")[0]  # an IPv6 address may carry the name of its interface
            for interface in psutil.net_if_addrs().values()
            for address in interface
            if address.family in (socket.AF_INET, socket.AF_INET6)
        ]
        return [*self.names, socket.gethostname(), *addresses]


def load_config(path: Path = CONFIG) -> Config:
    """Read services.yaml; `${NAME}` becomes the value of that environment variable.

    Raises:
        DataError: not valid, or a variable is not set; or other machines are let in without a password.
    """
    try:
        written = yaml_value(path.read_bytes()) or {}
        config = Config.model_validate(_expanded(written, path))
    except FileNotFoundError:
        return Config()
    except YamlError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if config.sign_in and "${" not in written["sign_in"]:
        raise DataError(f"{path}: sign_in: take the password from the environment: rlhf:${{RLHF_PASSWORD}}")
    if config.sign_in and len(config.sign_in.partition(":")[2]) < SHORTEST_PASSWORD:
        raise DataError(
            f"{path}: sign_in: the password needs at least {SHORTEST_PASSWORD} characters, because nothing "
            "limits how often it is guessed; python -c 'import secrets; print(secrets.token_urlsafe())' "
            "makes one"
        )
    if not (is_loopback(config.host) or config.sign_in):
        raise DataError(
            f"{path}: host {config.host} lets other machines in, so Prefect and MLflow need a password: "
            "write sign_in: rlhf:${RLHF_PASSWORD} and set that variable"
        )
    return config


def _expanded(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(inner, path) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    text = os.path.expandvars(value)
    if "${" in text:
        missing = text.split("${")[1].split("}")[0]
        raise DataError(f"{path}: the environment variable {missing} is not set")
    return text


def environment(config: Config) -> dict[str, str]:
    """What a program has to know to use the services."""
    return sign_in_environment(config) | {
        "PREFECT_API_URL": f"{config.url('prefect')}/api",
        "MLFLOW_TRACKING_URI": config.url("mlflow"),
        "RLHF_PAGES": config.url("pages"),
    }


def sign_in_environment(config: Config) -> dict[str, str]:
    """Name and password for Prefect's and MLflow's clients; empty where none are needed."""
    if not config.sign_in:
        return {}
    name, _, password = config.sign_in.partition(":")
    return {
        "PREFECT_API_AUTH_STRING": config.sign_in,
        "MLFLOW_TRACKING_USERNAME": name,
        "MLFLOW_TRACKING_PASSWORD": password,
    }
