"""The part of the settings that a stage may read: the parameters that its entry in dvc.yaml declares.

DVC compares only the declared parameters when it decides whether a stage must run, and only these are in the
stage key and in MLflow. A stage that read another parameter would silently keep its old outputs when that
parameter changes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

# Parameters that no stage needs to declare, because what it computes does not depend on them but by rounding:
# activations that are computed twice. DVC could not look at them either: not every type of base has them.
FREE = ("base.gradient_checkpointing",)


class UndeclaredParameter(Exception):
    """A stage reads a parameter that dvc.yaml does not declare for it; its entry there must be corrected."""


class Declared:
    """A section of the settings, reduced to the declared parameters; reading any other parameter raises.

    A section that is declared whole is handed out as it is, so that it can be passed on.

    Args:
        section: the settings, or a section of them.
        keys: the declared parameters, dotted from the top, e.g. `collect.groups` or `ppo`.
        stage: the stage's name, for the error.
        at: where in the settings the section stands: empty, or a dotted key with a final dot.
    """

    def __init__(self, section: BaseModel, keys: Collection[str], stage: str, at: str = "") -> None:
        self._section, self._stage, self._at = section, stage, at
        self._keys = {*keys, *FREE}

    def __getattr__(self, name: str) -> Any:
        parameter = None if name.startswith("_") else type(self._section).model_fields.get(name)
        if parameter is None:
            raise AttributeError(name)
        key = self._at + (parameter.alias or name)
        if key in self._keys:
            return getattr(self._section, name)
        if any(declared.startswith(f"{key}.") for declared in self._keys):
            return Declared(getattr(self._section, name), self._keys, self._stage, f"{key}.")
        raise UndeclaredParameter(
            f"stage {self._stage!r} reads the parameter {key!r}, which dvc.yaml does not declare for it: add "
            "it to the stage's params there, or DVC will not run the stage again when it changes"
        )
