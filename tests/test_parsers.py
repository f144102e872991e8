"""Every parser of what people, tools and models write, with a property each: whatever stands there, the
answer is a value or the project's own error in one line, and what was written is read back equal.

| what is read | parser | its error | reads back equal |
|---|---|---|---|
| params.yaml, recipes | `load_settings`, `yaml_value` | SettingsError, YamlError | here |
| `--set`, make's SET | `parse_changes`, `plan` | SettingsError | here |
| the form in Prefect | `FormSettings` | ValidationError, for Prefect | tests/flows/test_form.py |
| params of finished runs | `past_settings` | SettingsError | here |
| services.yaml | `load_config` | DataError | here |
| JSON lines, JSON, CSV, TSV, text | `files` | DataError | tests/rlhf/data/test_file_types.py, here |
| Parquet, Arrow, Feather, gzip, Zstandard | `files` | DataError | tests/rlhf/data/test_file_types.py |
| records of each layout | `read` | DataError | test_odd_records.py, test_golden_rows.py |
| values of rows by contract | `exact`, `dense_ranks` | ValueError | tests/rlhf/data/test_columns.py, here |
| `ingest.columns` | `ColumnMap` | DataError | here |
| cells of a spreadsheet | `value` | DataError | here |
| judgments by people | `read_judgments` | DataError | here |
| the source qa-feedback | `question_of` | DataError | here |
| candidates of labeling | `read_candidates` | DataError | here |
| labels out and in | `read_labels` | DataError | tests/labeling/test_round_trip.py, here |
| answers of labelers, known answers | `understand`, `check_expected` | DataError | here |
| metrics and records of stages | `write_json`, `read_json` | DataError | here |
| summaries of the built-in task | `parse` | none: it reads any text | here |
| verdicts of a language model | `read_verdict` | none: None where there is no verdict | here |
| text to tokens | `template` | DataError | tests/rlhf/models/test_template.py |

Strings of our source are among what Hypothesis draws, so no property may rest on a text meaning nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.form import FormSettings
from flows.params import parse_changes, plan
from flows.past_params import past_settings
from flows.services.settings import load_config
from labeling.answers import Choice, check_expected, understand
from labeling.candidates import read_candidates
from labeling.imports.files import read_labels
from rlhf.data.column_map import ColumnMap
from rlhf.data.contracts import TABLES, exact
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.data.files_source import files
from rlhf.data.formats.cells import value
from rlhf.data.judgments import read_judgments
from rlhf.data.qa_feedback import question_of
from rlhf.data.rankings import dense_ranks
from rlhf.data.reading import Source
from rlhf.judges.verdicts import read_verdict
from rlhf.settings import (
    SettingsError,
    YamlError,
    check_settings,
    known_keys,
    load_settings,
    yaml_value,
)
from rlhf.world.lexicon import PHRASES
from rlhf.world.parser import parse

few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# Values as JSON and YAML spell them, the odd ones among them.
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.sampled_from(["NaN", "-1", "[", "{}", "2026-13-45", "1e999", "first", "tie", 10**309, -(2**63) - 1])
)
VALUE = st.recursive(
    SCALAR,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=6,
)
FINITE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=6,
)
COLUMN = st.sampled_from(
    (
        *(
            "prompt",
            "completion",
            "completions",
            "ranking",
            "messages",
            "chosen",
            "rejected",
            "label",
            "split",
        ),
        *(
            "labeler_id",
            "strength",
            "scores",
            "output",
            "expected",
            "reference",
            "policy",
            "preferred",
            "extra",
        ),
    )
)
ROWS = st.lists(st.dictionaries(COLUMN, VALUE, max_size=5), min_size=1, max_size=3)


def refused(parser: Callable[[], Any], *errors: type[Exception]) -> None:
    """Run a parser, which may answer, or raise its own error: a short line."""
    line = ""
    try:
        parser()
    except errors as error:
        line = str(error)
    assert len(line) < 2000
    assert "\n" not in line


@pytest.fixture(scope="module")
def folder() -> Any:
    """A folder for files that each example writes anew."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def nested(key: str, inner: Any) -> Any:
    """A value under a dotted key."""
    for part in reversed(key.split(".")):
        inner = {part: inner}
    return inner


@few
@given(st.sampled_from(known_keys()), VALUE)
def test_a_parameter_takes_a_value_or_refuses_it(key: str, said: Any) -> None:
    refused(lambda: check_settings(nested(key, said), "here"), SettingsError)
    refused(lambda: past_settings(nested(key, said), "here"), SettingsError)
    refused(lambda: plan(str(ROOT / "params.yaml"), None, {key: said}), SettingsError, DataError)
    with suppress(ValidationError):
        FormSettings.model_validate({key: said})


@few
@given(VALUE, st.sampled_from(["model", "pretrain", "reward", "ppo", "base", "seed", "strange"]))
def test_params_that_are_anything_are_refused(said: Any, section: str) -> None:
    for values in (said, {section: said}, {section: {"lora_rank": said}}):
        refused(lambda values=values: check_settings(values, "here"), SettingsError)
        refused(lambda values=values: past_settings(values, "here"), SettingsError)
        with suppress(ValidationError):
            FormSettings.model_validate(values)


SPELLED = st.text(st.sampled_from("ab01.:-[]{}&*!?|>'\"# \n\t,%@e_<"), max_size=24)


@few
@given(SPELLED | TEXT | st.builds(yaml.safe_dump, FINITE))
def test_a_text_is_yaml_or_refused(text: str) -> None:
    refused(lambda: yaml_value(text), YamlError)
    refused(lambda: parse_changes([text]), SettingsError)
    refused(lambda: parse_changes([f"ppo.clip={text}"]), SettingsError)


@few
@given(st.binary(max_size=24) | SPELLED.map(str.encode))
def test_a_file_of_parameters_or_services_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "any.yaml"
    path.write_bytes(content)
    refused(lambda: load_settings(path), SettingsError)
    refused(lambda: load_config(path), DataError)


@few
@given(
    st.integers(0, 2**31 - 1),
    st.floats(0, 10),
    st.none() | st.floats(1e-300, 1000),
    st.lists(TEXT.filter(bool), max_size=3),
)
def test_parameters_read_back_equal(
    folder: Path, seed: int, kl: float, target: float | None, banned: list[str]
) -> None:
    values = {"seed": seed, "ppo": {"kl_coef": kl, "kl_target": target}, "evaluate": {"banned_words": banned}}
    asked = check_settings(values, "here")
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(asked.model_dump(by_alias=True), allow_unicode=True), encoding="utf-8")
    assert load_settings(path) == asked
    changes = [f"seed={seed}", f"ppo.kl_coef={kl!r}", f"ppo.kl_target={json.dumps(target)}"]
    assert list(parse_changes(changes).values()) == [seed, kl, target]


@few
@given(st.integers(1, 65535), st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), max_size=3))
def test_services_read_back_equal(folder: Path, port: int, names: list[str]) -> None:
    path = folder / "services.yaml"
    path.write_text(yaml.safe_dump({"label": {"port": port}, "names": names}))
    config = load_config(path)
    assert (config.label.port, config.names) == (port, names)


@few
@given(st.sampled_from(["services", "host", "names", "llm", "sign_in", "label", "worker"]), VALUE)
def test_services_that_are_anything_are_refused(folder: Path, key: str, said: Any) -> None:
    path = folder / "odd.yaml"
    path.write_text(yaml.safe_dump({key: said}))
    refused(lambda: load_config(path), DataError)


@few
@given(ROWS, st.sampled_from([".jsonl", ".json"]), st.sampled_from([(), ("*",)]))
def test_rows_of_any_columns_are_read_or_refused(
    folder: Path, rows: list[dict[str, Any]], suffix: str, keep: tuple[str, ...]
) -> None:
    path = folder / f"rows{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if suffix == ".jsonl" else json.dumps(rows))
    for parser in (files_of, read_labels, read_candidates):
        refused(lambda parser=parser: parser(path), DataError)


def files_of(path: Path) -> Any:
    """The rows of a file, as the source `files` reads them."""
    return files([Source(str(path))], "r")


@few
@given(
    st.binary(max_size=40)
    | st.text(st.sampled_from('{}[]":, \nprompt\\u1eE-.;|\t'), max_size=40).map(str.encode),
    st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt"]),
)
def test_files_of_any_bytes_are_read_or_refused(folder: Path, content: bytes, suffix: str) -> None:
    path = folder / f"any{suffix}"
    path.write_bytes(content)
    for parser in (files_of, read_labels, read_candidates):
        refused(lambda parser=parser: parser(path), DataError)
    refused(lambda: read_json(path), DataError)


@few
@given(st.dictionaries(COLUMN, VALUE | TEXT, max_size=7))
def test_judgments_by_people_are_read_or_refused(row: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name, "ann.jsonl").write_text(json.dumps(row) + "\n")
        refused(lambda: read_judgments(name), DataError)


KINDS = [field.type for contract in TABLES.values() for field in contract.schema]


@few
@given(VALUE, st.sampled_from(KINDS))
def test_a_value_is_kept_as_it_is_or_refused(said: Any, kind: pa.DataType) -> None:
    with suppress(ValueError):
        kept = exact(said, kind)
        assert pa.array([kept], kind).to_pylist() == [kept]
        assert said == kept or isinstance(said, (list, dict))


@few
@given(st.lists(VALUE, max_size=5))
def test_ranks_are_dense_or_refused(ranking: list[Any]) -> None:
    with suppress(DataError):
        ranks = dense_ranks(ranking)
        given_ranks = {rank for rank in ranks if rank is not None}
        assert given_ranks == set(range(1, len(given_ranks) + 1))
        assert [rank is None for rank in ranks] == [rank is None for rank in ranking]


@few
@given(TEXT, st.dictionaries(TEXT, VALUE, max_size=3))
def test_a_map_of_columns_maps_or_refuses(template: str, row: dict[str, Any]) -> None:
    known = set(row)
    refused(lambda: ColumnMap({"prompt": template}, known)(row), DataError)
    for column in known:
        refused(
            lambda column=column: ColumnMap({"prompt": f"{template} {{{column}}}"}, known)(row), DataError
        )
    escaped = template.replace("{", "{{").replace("}", "}}") + "{{}}"
    if escaped not in known:
        assert ColumnMap({"prompt": escaped}, known)(row)["prompt"] == template + "{}"


@few
@given(TEXT | st.builds(json.dumps, VALUE))
def test_a_cell_is_its_value_or_its_text(cell: str) -> None:
    with suppress(DataError):
        kept = value(cell)
        assert kept == cell or not isinstance(kept, str)


@few
@given(FINITE)
def test_figures_read_back_equal(folder: Path, figures: Any) -> None:
    write_json(folder / "figures.json", figures)
    assert read_json(folder / "figures.json") == figures


@few
@given(VALUE)
def test_figures_that_are_no_numbers_are_refused(folder: Path, figures: Any) -> None:
    refused(lambda: write_json(folder / "figures.json", {"a": figures}), DataError)


@few
@given(VALUE, st.sampled_from(["question", "passages", "gold", "prediction 1", "preference", "feedback"]))
def test_a_question_with_its_answers_is_read_or_refused(said: Any, key: str) -> None:
    item = {"question": "q", "passages": [["t", "s"]], "gold": "g", "preference": [0, 1, 2, 0, 1, 2]}
    item |= {f"prediction {i}": f"p{i}" for i in range(1, 5)}
    refused(lambda: question_of(item | {key: said}), DataError)
    refused(lambda: question_of(said), DataError)


ASKED = st.sampled_from(["compare", "rank", "vote", "edit", "judge"])


@few
@given(
    ASKED,
    st.builds(
        Choice,
        scale=st.none() | st.integers(1, 9),
        both_bad=st.booleans(),
        ranks=st.none() | st.lists(st.none() | st.integers(), max_size=9),
        vote=st.sampled_from([None, "up", "down"]),
        text=st.none() | TEXT,
        side=st.sampled_from([None, "left", "tie", "right"]),
    ),
    VALUE,
)
def test_an_answer_is_understood_or_refused(kind: str, choice: Choice, expected: Any) -> None:
    outputs = ["a", "b"] if kind in ("compare", "rank") else ["a"]
    refused(lambda: understand(kind, choice, [1, 0], outputs), DataError)
    refused(lambda: check_expected(kind, expected, len(outputs)), DataError)
    refused(lambda: check_expected(kind, {"ranking": expected, "vote": expected}, 2), DataError)


@few
@given(st.text(max_size=60), st.lists(st.sampled_from(PHRASES["deed"] + PHRASES["feeling"]), max_size=4))
def test_a_summary_is_parsed_whatever_it_says(text: str, phrases: list[str]) -> None:
    claims = parse(text)
    assert claims.confident + claims.stray <= claims.words
    told = parse(". ".join(phrases) + ".")
    for kind in ("deed", "feeling"):
        said = [phrase for phrase in dict.fromkeys(phrases) if phrase in PHRASES[kind]]
        assert told.values.get(kind, ()) == tuple(said)
    assert (told.stray, told.repeats) == (0, len(phrases) - len(set(phrases)))


@few
@given(st.text(max_size=60), st.sampled_from(["A", "B", "tie"]))
def test_a_verdict_is_read_or_is_none(text: str, said: str) -> None:
    assert read_verdict(text) in (None, "A", "B", "tie")
    assert read_verdict(f"Verdict: {said}") == said
