"""services.yaml: the services' ports and stores, and what a program has to know to use them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf.contracts import DataError

CONFIG = Path("services.yaml")


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
    """The reports of the runs."""

    port: int = Field(ge=1, le=65535)


class Worker(Part):
    """The process that starts flow runs."""

    pool: str
    runs: int = Field(ge=1, le=1000)


class Config(Part):
    """All of services.yaml."""

    host: str = "127.0.0.1"
    prefect: Server = Server(port=4200)
    mlflow: Tracking = Tracking(port=5000)
    label: Server = Server(port=8600)
    pages: Pages = Pages(port=8700)
    worker: Worker = Worker(pool="rlhf", runs=2)

    def url(self, name: str) -> str:
        """Where a service is reached from this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{getattr(self, name).port}"


def load_config(path: Path = CONFIG) -> Config:
    """Read services.yaml; `${NAME}` becomes the value of that environment variable.

    Raises:
        DataError: not valid, or a variable is not set.
    """
    try:
        return Config.model_validate(_expanded(yaml.safe_load(path.read_text()) or {}, path))
    except FileNotFoundError:
        return Config()
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


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
    return {
        "PREFECT_API_URL": f"{config.url('prefect')}/api",
        "MLFLOW_TRACKING_URI": config.url("mlflow"),
        "RLHF_PAGES": config.url("pages"),
    }
