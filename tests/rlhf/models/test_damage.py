"""Model folders with a damaged file: the line names it and says how it comes back."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from small_base import base

from rlhf.data.errors import DataError
from rlhf.models.adapters import add_adapters
from rlhf.models.policy import load_policy, save_model
from rlhf.models.reward_model import load_reward, load_reward_adapter, reward_from_policy
from rlhf.settings import Lora


@pytest.fixture(scope="module")
def models(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole policy, a reward model on it, adapters on it and a reward model on those."""
    folder = tmp_path_factory.mktemp("folders") / "models"
    shutil.copytree(base, folder / "pretrained")
    save_model(reward_from_policy(folder / "pretrained", 0), folder / "reward")
    policy = load_policy(folder / "pretrained")
    policy.adapters = add_adapters(policy.model, Lora(rank=2))
    save_model(policy, folder / "sft")
    save_model(reward_from_policy(folder / "sft", 0), folder / "scorer")
    return folder


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


LOAD = {"reward": load_reward, "scorer": load_reward_adapter}


@pytest.mark.parametrize(
    "damage", [lambda file: os.truncate(file, file.stat().st_size // 2), lambda file: os.truncate(file, 0)]
)
@pytest.mark.parametrize(
    "file",
    [
        "pretrained/config.json",
        "pretrained/model.safetensors",
        "pretrained/policy.json",
        "pretrained/tokenizer.json",
        "reward/config.json",
        "sft/adapter_config.json",
        "sft/adapter_model.safetensors",
        "scorer/adapter_model.safetensors",
        "scorer/policy.json",
    ],
)
def test_a_file_cut_off_is_named(file: str, damage, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    damage(tmp_path / "models" / file)
    folder = file.split("/")[0]
    with pytest.raises(
        DataError, match=rf"{file}: damaged \(.*\); `dvc checkout` brings it back .* else delete it"
    ) as told:
        LOAD.get(folder, load_policy)(tmp_path / "models" / folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("file", ["pretrained/model.safetensors", "sft/adapter_model.safetensors"])
def test_a_weight_with_a_flipped_bit_is_refused(file: str, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    flip(tmp_path / "models" / file)
    folder = file.split("/")[0]
    with pytest.raises(DataError, match=rf"{folder}: its weights have the hash .*`dvc checkout .*{folder}`"):
        load_policy(tmp_path / "models" / folder)


def test_the_base_of_adapters_is_named_where_it_is_the_damaged_one(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    os.truncate(tmp_path / "models/pretrained/config.json", 20)
    with pytest.raises(DataError, match=r"pretrained/config\.json: damaged"):
        load_policy(tmp_path / "models/sft")


def test_an_error_that_no_file_explains_is_raised_as_it_is(models: Path, monkeypatch) -> None:
    def fail(*args, **kwargs):
        raise RuntimeError("another")

    monkeypatch.setattr("rlhf.models.policy.load_tokenizer", fail)
    with pytest.raises(RuntimeError, match="another"):
        load_policy(models / "pretrained")
