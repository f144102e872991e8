"""Corruptions of structure, encoding, packing and values: each ends `ingest` in one line that names file and
place and says how to mend it, and leaves what an earlier run wrote; the file without the fault passes."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.data.errors import DataError
from rlhf.settings import Ingest
from tasks import ingest
from tasks.runtime.stage import Stage

ROWS: list[dict[str, Any]] = [
    {
        "prompt": f"How long does loaf {i} bake?",
        "completions": [f"About {30 + i} minutes.", "A while."],
        "ranking": [1, 2],
        "labeler_id": "ann",
    }
    for i in range(6)
]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]], sign: str = ",") -> bytes:
    cells = [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows]
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
    return "\n".join([sign.join(rows[0]), *(sign.join(row) for row in quoted), ""]).encode()


def parquet(rows: list[dict[str, Any]], **columns: pa.DataType) -> bytes:
    whole = pa.Table.from_pylist(rows)
    for name, kind in columns.items():
        place = whole.schema.get_field_index(name)
        whole = whole.set_column(place, name, whole.column(name).cast(kind))
    sink = io.BytesIO()
    pq.write_table(whole, sink)
    return sink.getvalue()


JSONL, LIST, CSV, PARQUET = lines(ROWS), json.dumps(ROWS).encode(), table(ROWS), parquet(ROWS)


def with_row(number: int, **changes: Any) -> bytes:
    """JSON lines in which a row, from 1, says something else."""
    rows = [dict(row) for row in ROWS]
    rows[number - 1] |= changes
    return lines(rows)


def without(number: int, column: str) -> bytes:
    rows = [dict(row) for row in ROWS]
    del rows[number - 1][column]
    return lines(rows)


def text_row(number: int, before: str, after: str) -> bytes:
    """JSON lines in which the text of a row, from 1, is another."""
    rows = JSONL.decode().splitlines()
    assert before in rows[number - 1]
    rows[number - 1] = rows[number - 1].replace(before, after)
    return ("\n".join(rows) + "\n").encode()


@dataclass(frozen=True)
class Case:
    """A corruption: the file with the fault, its clean twin, and what the line says beside the name."""

    name: str
    fault: bytes
    clean: bytes
    said: tuple[str, ...]


def case(name: str, fault: bytes, clean: bytes, *said: str) -> Case:
    return Case(name, fault, clean, said)


DEEP = '{"prompt": ' + "[" * 100_000
CASES: dict[str, Case] = {
    # structure of JSON lines
    "an empty file": case("d.jsonl", b"", JSONL, "the file is empty"),
    "only blank lines": case("d.jsonl", b"\n\n\n", JSONL, "no rows"),
    "a last line that is cut off": case("d.jsonl", JSONL[:-30], JSONL, "row 6", "not valid JSON", "cut off"),
    "a line that is cut off in the middle": case(
        "d.jsonl", text_row(3, '"labeler_id": "ann"}', '"labeler_id": '), JSONL, "row 3", "not valid JSON"
    ),
    "two rows on a line": case(
        "d.jsonl", JSONL.replace(b"}\n", b"} ", 1), JSONL, "row 1", "write each on a line of its own"
    ),
    "a trailing comma": case("d.jsonl", text_row(2, "}", ",}"), JSONL, "row 2", "not valid JSON"),
    "single quotes": case("d.jsonl", text_row(2, '"', "'"), JSONL, "row 2", "not valid JSON"),
    "a row over several lines": case(
        "d.jsonl", JSONL.replace(b'{"prompt"', b'{\n"prompt"', 1), JSONL, "row 1", "one object on one line"
    ),
    "a list as a row": case("d.jsonl", JSONL + b"[1]\n", JSONL, "row 7", "expected an object", "got list"),
    "a text as a row": case("d.jsonl", JSONL + b'"row"\n', JSONL, "row 7", "expected an object", "got str"),
    "a list in .jsonl": case("d.jsonl", LIST, JSONL, "row 1", "let its name end in .json"),
    "a key twice": case(
        "d.jsonl", text_row(4, "}", ', "ranking": [2, 1]}'), JSONL, "row 4", "'ranking' stands twice"
    ),
    "a key twice in a message": case(
        "d.jsonl",
        text_row(4, '"prompt"', '"messages": [{"role": "user", "content": "a", "content": "b"}], "prompt"'),
        text_row(4, '"prompt"', '"messages": [{"role": "user", "content": "a"}], "prompt"'),
        "row 4",
        "'content' stands twice",
    ),
    "NaN": case(
        "d.jsonl", text_row(2, "[1, 2]", "[1, NaN]"), JSONL, "row 2", "NaN is no number", "write a number"
    ),
    "Infinity": case(
        "d.jsonl", text_row(2, "[1, 2]", "[1, -Infinity]"), JSONL, "row 2", "-Infinity is no number"
    ),
    "a number beyond all floats": case(
        "d.jsonl", text_row(2, "[1, 2]", "[1, 1e999]"), JSONL, "row 2", "is no number"
    ),
    "a number of 5,000 digits": case(
        "d.jsonl", text_row(2, "[1, 2]", "[1, 1%s]" % ("0" * 5000)), JSONL, "row 2", "a number is too long"
    ),
    "lists within lists": case("d.jsonl", JSONL + DEEP.encode(), JSONL, "row 7", "too deep"),
    # documents
    "a document that is cut off": case("d.json", LIST[:-40], LIST, "not valid JSON", "cut off"),
    "a text as a document": case("d.json", b'"rows"', LIST, "expected a list of rows, got str"),
    "columns of other rows": case(
        "d.json",
        b'{"prompt": {"0": "a", "1": "b"}, "ranking": {"0": [1]}}',
        LIST,
        "an object of columns",
        "orient='records'",
    ),
    "lists of several tables": case(
        "d.json",
        b'{"a": [{"x": 1}], "b": [{"y": 1}]}',
        LIST,
        "several lists of rows, a, b",
        "a file of its own",
    ),
    "a key twice in a document": case(
        "d.json", LIST[:-2] + b', "ranking": [1]}]', LIST, "'ranking' stands twice"
    ),
    # encoding
    "Latin-1": case(
        "d.jsonl", JSONL.replace(b"A while", b"A wh\xefle", 1), JSONL, "row 1", "not UTF-8", "0xef"
    ),
    "Windows-1252 in CSV": case(
        "d.csv", CSV.replace(b"A while", b"A \x93while", 1), CSV, "line 2", "not UTF-8", "0x93"
    ),
    "a text cut within a character": case(
        "d.jsonl", JSONL + b'{"prompt": "\xc3', JSONL, "row 7", "not UTF-8"
    ),
    "UTF-16 without a mark": case(
        "d.csv",
        CSV.decode().encode("utf-16-le"),
        CSV.decode().encode("utf-16"),
        "UTF-16 without a byte order mark",
    ),
    "half a surrogate": case(
        "d.jsonl",
        text_row(5, "A while", r"A \ud83d while"),
        text_row(5, "A while", r"A \ud83d\ude00 while"),
        "row 5",
        "column 'completions'",
        "half of a surrogate pair",
        "write the whole character",
    ),
    "bytes of a picture": case("d.jsonl", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", JSONL, "d.jsonl"),
    "Parquet under another name": case("d.jsonl", PARQUET, JSONL, "is Parquet; let its name end in .parquet"),
    "a spreadsheet under another name": case(
        "d.csv", b"PK\x03\x04" + b"x" * 40, CSV, "a ZIP archive or a spreadsheet"
    ),
    # packing
    "gzip that is cut off": case(
        "d.jsonl.gz", gzip.compress(JSONL)[:-12], gzip.compress(JSONL), "damaged or cut off", "gzip -t"
    ),
    "gzip with another byte": case(
        "d.jsonl.gz",
        gzip.compress(JSONL, 0).replace(b"loaf 3", b"loaf X"),
        gzip.compress(JSONL, 0),
        "damaged or cut off",
    ),
    "gzip that is none": case(
        "d.jsonl.gz", JSONL, gzip.compress(JSONL), "damaged or cut off", "Not a gzipped file"
    ),
    "plain that is gzip": case(
        "d.jsonl", gzip.compress(JSONL), JSONL, "packed by gzip; let its name end in .gz"
    ),
    "Zstandard that is cut off": case(
        "d.csv.zst",
        pa.Codec("zstd").compress(CSV, asbytes=True)[:-9],
        pa.Codec("zstd").compress(CSV, asbytes=True),
        "damaged or cut off",
        "zstd -t",
    ),
    "a packed file that says nothing else": case(
        "d.gz", gzip.compress(JSONL), b"", "let it end in .jsonl.gz"
    ),
    "an archive": case(
        "d.tar.gz", gzip.compress(JSONL), b"", "damaged, cut off or locked", "bring the archive again"
    ),
    # spreadsheets
    "a column twice": case(
        "d.csv", CSV.replace(b"ranking", b"completions", 1), CSV, "names 'completions' twice"
    ),
    "a header that two signs part": case(
        "d.csv", b"prompt,completions;ranking\n", CSV, "2 columns by comma as by semicolon", "quote the names"
    ),
    "a cell that is missing": case(
        "d.csv", CSV + b'"last"\n', CSV, "row 7", "1 cells, fewer than the 4", "cut off"
    ),
    "a comma that is not quoted": case(
        "d.csv", CSV + b"a,b,c,d,e\n", CSV, "row 7", "5 cells, more than the 4", "quote the texts"
    ),
    "a quote that is not doubled": case(
        "d.csv", CSV.replace(b"A while.", b'A "while', 1), CSV, "row 1", "not valid CSV"
    ),
    "a quote that never closes": case(
        "d.csv", CSV.rstrip(b'"\n'), CSV, "row 6", "no closing quote", "cut off"
    ),
    "a header alone": case("d.csv", CSV.split(b"\n")[0] + b"\n", CSV, "no rows"),
    "lists as Python prints them": case(
        "d.csv",
        table([{k: str(v) for k, v in row.items()} for row in ROWS]),
        CSV,
        "row 1",
        "column 'completions'",
        "write it as JSON does",
    ),
    "a list that is no JSON in row 4": case(
        "d.csv",
        CSV.replace(b'"[""About 33', b'"[""About"" 33'),
        CSV,
        "row 4",
        "column 'completions'",
        "write it as JSON does",
    ),
    "a title above the header": case(
        "d.csv", b"Preferences\n" + CSV, CSV, "row 1", "4 cells", "is the first line a title?"
    ),
    "a decimal comma": case(
        "d.csv",
        CSV.replace(b"labeler_id\n", b"labeler_id,seconds\n").replace(b'"ann"\n', b'"ann","1,5"\n'),
        CSV.replace(b"labeler_id\n", b"labeler_id,seconds\n").replace(b'"ann"\n', b'"ann","1.5"\n'),
        "row 1",
        "'1,5' is no double; write a point",
    ),
    # Parquet and Arrow
    "Parquet that is cut off": case(
        "d.parquet", PARQUET[: len(PARQUET) // 2], PARQUET, "not a Parquet file, or cut off"
    ),
    "Parquet of 4 bytes": case("d.parquet", b"PAR1", PARQUET, "not a Parquet file, or cut off"),
    "texts as bytes": case(
        "d.parquet", parquet(ROWS, prompt=pa.binary()), PARQUET, "column 'prompt' holds bytes", "decode them"
    ),
    "Arrow that is none": case(
        "d.arrow", b"ARROW1 and no more", b"", "not an Arrow file or stream, or cut off"
    ),
    # values
    "a number for a text": case(
        "d.jsonl", with_row(3, prompt=5), JSONL, "row 3", "column 'prompt': 5 is no string", "write a text"
    ),
    "a text for a list": case(
        "d.jsonl", with_row(3, completions="ab"), JSONL, "row 3", "'completions'", "write a list of texts"
    ),
    "a number among texts": case(
        "d.jsonl", with_row(3, completions=["a", 5]), JSONL, "row 3", "'completions'", "write a list"
    ),
    "a text for a rank": case(
        "d.jsonl", with_row(3, ranking=[1, "2"]), JSONL, "row 3", "'2' in a ranking is no number"
    ),
    "true for a rank": case(
        "d.jsonl", with_row(3, ranking=[1, True]), JSONL, "row 3", "True in a ranking is no number"
    ),
    "a fraction for a whole number": case(
        "d.jsonl",
        with_row(3, strength=2.5),
        with_row(3, strength=2.0),
        "row 3",
        "'strength': 2.5 is no int64",
        "whole number",
    ),
    "a number beyond 64 bits": case(
        "d.jsonl", with_row(3, strength=2**63), with_row(3, strength=9), "row 3", "'strength'"
    ),
    "a text for a number": case(
        "d.jsonl", with_row(3, seconds="3"), with_row(3, seconds=3), "row 3", "'seconds': '3' is no double"
    ),
    "a text for a truth value": case(
        "d.jsonl", with_row(3, both_bad="no"), with_row(3, both_bad=False), "row 3", "write true or false"
    ),
    "a split that is none": case(
        "d.jsonl", with_row(3, split="later"), with_row(3, split="dev"), "row 3", "'later' is no split"
    ),
    "a column that is missing in a row": case(
        "d.jsonl", without(3, "ranking"), JSONL, "row 3", "column 'ranking' is missing"
    ),
    "columns of another table": case(
        "comparisons.jsonl",
        lines([{"prompt": "a", "completion": "b"}]),
        JSONL,
        "'completions' is missing; a comparison needs",
    ),
    "columns of nothing": case(
        "d.jsonl", lines([{"a": "b"}]), JSONL, "columns a: no known layout", "ingest.columns"
    ),
    "a turn of nobody": case(
        "d.jsonl",
        with_row(3, messages=[{"role": "alien", "content": "a"}]),
        with_row(3, messages=[{"role": "user", "content": "a"}]),
        "row 3",
        "'alien'",
    ),
}


def run(path: Path, **settings: Any) -> dict[str, float]:
    """The stage `ingest` on a file, in the working directory."""
    whole = SimpleNamespace(ingest=Ingest(source="files", path=str(path), **settings), seed=1)
    return ingest.main(cast(Stage, SimpleNamespace(settings=whole, log_dataset=lambda *_, **__: None)))


def everything() -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(Path("data").rglob("*")) if file.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_a_corruption_ends_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planted = CASES[name]
    path = tmp_path / planted.name
    before: dict[str, bytes] = {}
    if planted.clean:
        path.write_bytes(planted.clean)
        assert run(path)["rows/comparisons"] >= 6
        before = everything()
    path.write_bytes(planted.fault)
    with pytest.raises(DataError) as caught:
        run(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    assert line.startswith(str(path))
    for part in planted.said:
        assert part in line
    assert everything() == before  # the earlier result stays whole, and nothing lies beside it
    assert not list(tmp_path.rglob("*.part"))


FAULTS_OF_ROWS: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "a line that is no JSON": (lambda: text_row(3, "}", ""), ["row 3"]),
    "a line that is not UTF-8": (lambda: JSONL.replace(b"A while", b"A wh\xefle", 1), ["row 1"]),
    "a value of another type": (lambda: with_row(5, prompt=5), ["row 5"]),
    "a list as a row": (lambda: JSONL + b"[1]\n", ["row 7"]),
}


@pytest.mark.parametrize("name", FAULTS_OF_ROWS)
def test_a_fault_of_a_row_can_be_put_aside_and_the_rest_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, places = FAULTS_OF_ROWS[name]
    path = tmp_path / "d.jsonl"
    path.write_bytes(make())
    figures = run(path, unreadable="quarantine")
    assert figures["rows/quarantined"] == len(places)
    assert figures["rows/comparisons"] == make().count(b"\n") - len(places)
    aside = [json.loads(line) for line in Path("data/raw/quarantine.jsonl").read_text().splitlines()]
    assert [(row["file"], row["row"], row["rule"]) for row in aside] == [
        (str(path), place, "readable") for place in places
    ]
    assert all(row["why"] and row["record"] for row in aside)


def test_cells_that_are_missing_can_be_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_bytes(CSV + b'"last"\n' + CSV.split(b"\n")[1] + b"\n")
    assert run(tmp_path / "d.csv", unreadable="quarantine")["rows/quarantined"] == 1
    [row] = [json.loads(line) for line in Path("data/raw/quarantine.jsonl").read_text().splitlines()]
    assert (row["row"], row["record"]) == ("row 7", ["last"])


def test_there_are_many_corruptions() -> None:
    assert len(CASES) >= 60
