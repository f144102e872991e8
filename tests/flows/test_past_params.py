"""The parameters of runs from before the base model was a section of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.past_params import load_past, past_settings
from rlhf.settings import Scratch, SettingsError

OLD = {
    "seed": 3,
    "model": {"scale": "0.3M", "context": 300},
    "pretrain": {"steps": 12},
    "reward": {"lora_rank": 0},
    "ppo": {"lora_rank": 8, "updates": 5},
}


def test_a_finished_run_is_read_by_todays_names(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(OLD))
    settings = load_past(path)
    assert (settings.seed, settings.ppo.updates) == (3, 5)
    base = settings.base
    assert isinstance(base, Scratch)
    assert (base.scale, base.context, base.steps) == ("0.3M", 300, 12)
    assert base.lora
    assert base.lora.rank == 8
    path.write_text("base: {steps: 7}\n")
    assert load_past(path).base == Scratch(steps=7)
    assert past_settings({"ppo": {"lora_rank": 0}}, "x").base.lora is None


def test_what_never_was_a_parameter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown key 'ppo\.updats'"):
        past_settings({"ppo": {"updats": 1}}, "x")
    with pytest.raises(SettingsError, match="no such file"):
        load_past(tmp_path / "params.yaml")
    with pytest.raises(SettingsError, match="expected sections of parameters"):
        past_settings([], "x")
