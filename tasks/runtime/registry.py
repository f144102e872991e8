"""What stands in the model registry: versions, their files, who is champion, and what a result lost there.

A stage whose outputs come back from DVC's cache does nothing, so `runs/register.json` may name a version that
the registry does not have: its database was lost, or the result was made with another one. `standing` asks.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.data.files import read_json
from rlhf.data.model_folder import ADAPTERS
from rlhf.settings import load_settings
from tasks.graph import content_hash
from tasks.runtime.errors import StageError
from tasks.runtime.faults import tracking_fault
from tasks.runtime.tracking import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

POLICY = Path("models/ppo")
RECORD = Path("runs/register.json")
CHALLENGER, CHAMPION = "challenger", "champion"
FILES = "files"  # tag of a version: the hash of its model folder, where that is not the policy's own
CONVERSATIONS = "conversations"  # the tag `prompts` of a version that was judged on such
# What the served policy imports of ours, kept beside the weights: a version loads without this project.
ROOMS = ("__init__.py", "compute.py", "settings", "data", "models")


@dataclass(frozen=True)
class Standing:
    """A result in the registry.

    Attributes:
        name, version: what runs/register.json says.
        promoted: whether the gate let it through.
        challenger, champion: the versions that bear these aliases now; empty where none does.
        lost: what the registry should have and does not, in words; empty where all is there.
    """

    name: str
    version: str
    promoted: bool
    challenger: str
    champion: str
    lost: str

    def __str__(self) -> str:
        """One line: what became of the version, and where it stands now."""
        said = f"{'promoted' if self.promoted else 'not promoted'}: {self.name} version {self.version}"
        if self.lost:
            return f"{said}, but the registry has no {self.lost}"
        if self.champion == self.version:
            return f"{said} is @{CHAMPION}"
        now = f"@{CHAMPION} is version {self.champion}" if self.champion else f"there is no @{CHAMPION}"
        if self.challenger == self.version:
            return f"{said} is @{CHALLENGER}; {now}"
        return f"{said}; @{CHALLENGER} is version {self.challenger}, {now}"


def standing(folder: Path | str = ".") -> Standing | None:
    """Where the result in a folder stands in the registry; None where nothing was registered.

    Raises:
        StageError: the registry cannot be asked.
    """
    path = Path(folder, RECORD)
    gate = read_json(path).get("gate") if path.exists() else None
    if not gate:
        return None
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    connect()
    name, version = load_settings(Path(folder, "params.yaml")).register_.model_name, str(gate["version"])
    try:
        aliases = _aliases(MlflowClient(), name)
        weights = _weights(MlflowClient(), name, version)
    except MlflowException as error:
        told = tracking_fault(error) or f"the model registry cannot be asked: {str(error).splitlines()[0]}"
        raise StageError(told) from None
    lost = ""
    if weights is None:
        lost = f"version {version} of {name}"
    elif weights != gate.get("weights"):
        lost = f"version {version} of {name} with these weights"
    elif CHALLENGER not in aliases:
        lost = f"@{CHALLENGER} of {name}"
    elif gate["promoted"] and CHAMPION not in aliases:
        lost = f"@{CHAMPION} of {name}"
    return Standing(
        name, version, bool(gate["promoted"]), aliases.get(CHALLENGER, ""), aliases.get(CHAMPION, ""), lost
    )


def find_champion(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version that bears the alias @champion."""
    version = _aliases(client, name).get(CHAMPION)
    return client.get_model_version(name, version) if version else None


def policy_folder(version: ModelVersion) -> Path | None:
    """The weights of a registered version as a local folder; None where files are missing or changed."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        root = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}"))
        folder = root / "artifacts" / POLICY.name
        whole = folder.is_dir() and content_hash(folder) == version.tags.get(
            FILES, version.tags.get("weights")
        )
    except (MlflowException, OSError):
        return None
    return folder if whole else None


def served_code(folder: Path) -> Path:
    """A copy of the rooms of `rlhf` that the served policy imports, as a package in `folder`."""
    package = folder / "rlhf"
    for room in ROOMS:
        if Path("rlhf", room).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(Path("rlhf", room), package / room, ignore=ignored)
        else:
            package.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path("rlhf", room), package / room)
    return package


def self_contained(policy: Path, folder: Path) -> Path:
    """The policy's model folder; if it holds adapters, one in `folder` with them merged into the weights."""
    if not (policy / ADAPTERS).exists():
        return policy
    from rlhf.models.policy import load_policy, save_model, without_adapters

    whole = without_adapters(load_policy(policy))
    save_model(whole, folder / policy.name)
    return folder / policy.name


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    model = _known(lambda: client.get_registered_model(name))
    return {alias: str(version) for alias, version in model.aliases.items()} if model else {}


def _weights(client: MlflowClient, name: str, version: str) -> str | None:
    """The hash of a version's weights; empty where it has none, None where there is no such version."""
    known = _known(lambda: client.get_model_version(name, version))
    return known.tags.get("weights", "") if known else None


def _known(ask: Any) -> Any:
    """What the registry answers; None where it has no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
