"""Parameters: bounds, messages, and params.yaml against the one definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from rlhf.settings import (
    Scratch,
    Settings,
    SettingsError,
    check_settings,
    describe,
    known_keys,
    load_settings,
)


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
        ({"base": None}, "base: Input should be a valid dictionary"),
        ({"base": {"type": "own"}}, "base.type: Input should be 'scratch' or 'pretrained', got 'own'"),
        (
            {"base": {"type": "scratch", "path": "gpt2"}},
            "unknown key 'base.path' where base.type is scratch, which has scale, tokenizer, vocab_size, "
            "context, template, steps, batch_size, learning_rate, muon_learning_rate, save_every, lora; set "
            "base.type to pretrained",
        ),
        (
            {"base": {"type": "pretrained", "path": "gpt2", "scale": "1M"}},
            "unknown key 'base.scale' where base.type is pretrained, which has path, revision, sha256,",
        ),
        ({"base": {"scael": "1M"}}, "save_every, lora; did you mean 'base.scale'?"),
        ({"base": {"type": "pretrained"}}, "my.yaml: base.path: Field required"),
        (
            {"base": {"path": "gpt2", "revision": "main"}},
            "base.revision: Value error, a branch or a tag may move",
        ),
        (
            {"base": {"path": "gpt2", "template": "chatt"}},
            "base.template: Value error, Input should be 'auto'",
        ),
        ({"base": {"lora": 8}}, "base.lora: Input should be a valid dictionary"),
        ({"base": {"lora": {"targets": []}}}, "base.lora.targets: "),
        ({"base": {"lora": {"ranks": 8}}}, "unknown key 'base.lora.ranks'; did you mean 'base.lora.rank'?"),
        (
            {"model": {"scale": "1M"}},
            "unknown key 'model': its parameters are in the section `base` now: base.scale",
        ),
        (
            {"seed": 1, "pretrain": {}},
            "unknown key 'pretrain': its parameters are in the section `base` now: base.st",
        ),
        (
            {"collect": {"groups": {"expert": float("inf")}}},
            "collect.groups.expert: Input should be a finite",
        ),
        (
            {"collect": {"groups": {"expert": float("nan")}}},
            "collect.groups.expert: Input should be a finite",
        ),
        (
            {"collect": {"groups": {"expert": 2, "novice": -1}}},
            "collect.groups: Value error, a share is a num",
        ),
        (
            {"collect": {"groups": {"expert": "much"}}},
            "collect.groups.expert: Input should be a valid number",
        ),
        (
            {"collect": {"groups": {"robot": 1}}},
            "collect.groups.robot: Input should be 'expert', 'novice' or",
        ),
        ({"ingest": {"aspects": {"kind": float("nan")}}}, "ingest.aspects.kind: Input should be a finite"),
        (
            {"validate": {"thresholds": {"ties": True}}},
            "validate.thresholds.ties: Input should be a valid num",
        ),
        (
            {"ppo": {"reward_functions": {"format_pattern": "["}}},
            "format_pattern: Value error, it is no regular",
        ),
        ({"ppo": {"whiten_rewards": 1}}, "ppo.whiten_rewards: Input should be a valid boolean, got 1"),
        ({"seed": "9" * 500}, "got '99999999999999999999999999999999999999999999999999999999..."),
        ({"ppo": {"clip\n": [0] * 500}}, "unknown key 'ppo.clip"),
        ({"x" * 5000: 1}, "unknown key 'xxxx"),
        ({"([": None}, "unknown key '(['"),
        ({"ppo": {"clip[0]": 1}}, "unknown key 'ppo.clip[0]'; did you mean 'ppo.clip'?"),
        ({"ppo": {"([": 1}}, "unknown key 'ppo.(['"),
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


def test_a_base_is_of_one_type_and_has_the_parameters_of_it() -> None:
    """A section that does not say its type has the first that knows all its keys; scratch is the first."""
    default = Settings().base
    assert isinstance(default, Scratch)
    assert (default.scale, default.steps, default.lora) == ("0.1M", 700, None)
    bases = [
        check_settings({"base": values}, "here").base
        for values in ({}, {"context": 64}, {"path": "gpt2"}, {"type": "pretrained", "path": "a/b"})
    ]
    assert [base.type for base in bases] == ["scratch", "scratch", "pretrained", "pretrained"]
    lora = check_settings({"base": {"lora": {"rank": 8, "targets": ["q_proj"]}}}, "here").base.lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.targets) == (8, None, ["q_proj"])


def test_the_table_says_which_type_of_base_has_a_parameter() -> None:
    rows = {key: default for key, default, *_ in describe()}
    assert rows["base.scale (scratch)"] == "0.1M"
    assert rows["base.path (pretrained)"] == "required"
    assert rows["base.lora.rank"] == "16"  # the same in both
    assert (rows["base.context (scratch)"], rows["base.context (pretrained)"]) == ("256", "None")
    assert {"base.scale", "base.path", "base.context", "base.lora", "base.lora.rank"} <= set(known_keys())
    assert len(known_keys()) == len(set(known_keys()))


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


def test_true_is_no_number_in_any_parameter() -> None:
    numbers = [key for key, default, _, _ in describe() if default.lstrip("-").replace(".", "").isdigit()]
    assert len(numbers) > 60
    for named in numbers:
        key, _, variant = named.partition(" (")
        *sections, last = key.split(".")
        values: Any = {last: True} | ({"path": "a/b"} if key.startswith("ingest.sources") else {})
        for section in reversed(sections):
            values = {section: [values] if section == "sources" else values}
        if variant == "pretrained)":
            values["base"] |= {"path": "a/b"}
        key = key.replace("sources", "sources.0")
        with pytest.raises(SettingsError, match=rf"my.yaml: {key}: Input should be a valid .*, got True"):
            check_settings(values, "my.yaml")


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "(" * 3000])
def test_a_pattern_is_compiled_when_the_params_are_read_whatever_its_weight(pattern: str) -> None:
    with pytest.raises(SettingsError, match="format_pattern: Value error, it is no regular") as caught:
        check_settings({"ppo": {"reward_functions": {"format_pattern": pattern}}}, "my.yaml")
    assert len(str(caught.value)) < 300


def test_messages_do_not_grow_with_what_they_quote() -> None:
    for values in ({"seed": [[0]] * 10_000}, {"ppo": {"k" * 10_000: 1}}, {"base": {"type": "t" * 10_000}}):
        with pytest.raises(SettingsError) as caught:
            check_settings(values, "my.yaml")
        assert len(str(caught.value)) < 300
