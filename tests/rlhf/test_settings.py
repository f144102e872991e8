"""Parameters: bounds, messages, and params.yaml against the one definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from rlhf.settings import Settings, SettingsError, check_settings, describe, known_keys, load_settings


def keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    dotted = []
    for key, value in values.items():
        if isinstance(value, dict) and f"{prefix}{key}" != "collect.groups":
            dotted += keys(value, f"{prefix}{key}.")
        else:
            dotted.append(prefix + key)
    return dotted


def test_params_yaml_holds_every_key() -> None:
    path = ROOT / "params.yaml"
    written = keys(yaml.safe_load(path.read_text()))
    assert sorted(written) == sorted(keys(Settings().model_dump(by_alias=True)))
    assert set(written) < set(known_keys())  # which has those of a pretrained base, too


def test_defaults_are_the_built_in_task() -> None:
    assert check_settings({}, "nothing") == Settings()
    assert Settings().ingest.source == "builtin"


def test_params_yaml_holds_the_defaults() -> None:
    """What is not written there has the same value: nobody has to look in two places."""
    assert load_settings(ROOT / "params.yaml") == Settings()


def test_every_parameter_is_described_and_every_number_bounded() -> None:
    for key, default, unit_and_bounds, description in describe():
        assert len(description) > 5, key
        if default.replace(".", "").replace("-", "").isdigit():
            assert ">" in unit_and_bounds, key
            assert "<" in unit_and_bounds, key


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sede": 1}, "unknown key 'sede'; did you mean 'seed'?"),
        ({"ppo": {"kl": 0.1}}, "unknown key 'ppo.kl'"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
        ({"seed": "many"}, "seed: Input should be a valid integer"),
        (
            {"base": {"scale": "100M"}},
            "base.scale: Input should be '0.1M', '0.15M', '0.2M', '0.3M', '0.5M', '1M', '2M' or '3M', "
            "got '100M'",
        ),
        (
            {"ingest": {"decoy_share": 1.5}},
            "ingest.decoy_share: Input should be less than or equal to 1, got 1.5",
        ),
        ({"prepare": None}, "prepare: "),
        ({"collect": {"groups": {"expert": float("inf")}}}, "collect.groups: Value error, shares must be"),
        ({"collect": {"groups": {"expert": float("nan")}}}, "collect.groups: Value error, shares must be"),
        ({"collect": {"groups": {"expert": 2, "novice": -1}}}, "collect.groups: Value error, shares must be"),
        ({"seed": -1, "threads": 0}, "(and 1 more)"),
        ([1], "expected sections of parameters, got list"),
    ],
)
def test_errors_are_one_line_that_names_key_and_value(values: Any, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_settings(values, "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"a: [1", "not valid YAML"),
        (b"a: \xff", "not valid YAML"),
        (b"seed: 2026-99-99", "not valid YAML"),
        (b"seed: " + b"9" * 5000, "not valid YAML"),
        (b"[" * 20_000, "not valid YAML"),
        (None, "no such file"),
    ],
)
def test_unreadable_files(raw: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(SettingsError, match=said) as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)


def test_settings_do_not_change_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 3  # type: ignore[misc]


def test_no_parameter_has_a_name_that_dvcs_run_cache_leaves_out() -> None:
    """DVC hashes a stage without the keys `size` and `nfiles`, those of parameters included."""
    parts = {part for key in known_keys() for part in key.split(".")}
    assert parts.isdisjoint({"size", "nfiles"})
