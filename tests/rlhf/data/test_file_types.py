"""Every type of file, packed or not: a table reads back as it was written, and a damaged file is one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.contracts import COMPARISON
from rlhf.data.errors import DataError
from rlhf.data.formats import json_documents, text_files
from rlhf.data.formats.records import records
from rlhf.data.layouts.layout import Notes
from rlhf.data.layouts.values import filled
from rlhf.data.reading import Source, read

Rows = list[dict[str, Any]]
COLUMNS = ("prompt", "completions", "ranking", "labeler_id", "strength", "seconds", "both_bad", "note")
SCHEMA = pa.schema([COMPARISON.schema.field(name) for name in COLUMNS])


def arrow(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def as_json_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: Rows, delimiter: str, encoding: str = "utf-8") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for row in rows:
        cells = [row[name] for name in COLUMNS]
        writer.writerow(
            [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]
        )
    return text.getvalue().encode(encoding)


def written(write: Callable[[Any], None]) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def as_ipc(rows: Rows, opened: Callable[..., Any]) -> bytes:
    sink = io.BytesIO()
    with opened(sink, SCHEMA) as writer:
        writer.write_table(arrow(rows), max_chunksize=2)
    return sink.getvalue()


TYPES: dict[str, tuple[str, Callable[[Rows], bytes]]] = {
    "JSON lines": (".jsonl", as_json_lines),
    "JSON lines, CRLF": (".ndjson", lambda rows: as_json_lines(rows).replace(b"\n", b"\r\n\r\n")),
    "JSON list": (".json", lambda rows: json.dumps(rows, indent=1).encode()),
    "JSON lines in .json": (".json", as_json_lines),
    "comma": (".csv", lambda rows: as_csv(rows, ",")),
    "semicolon, mark": (".csv", lambda rows: as_csv(rows, ";", "utf-8-sig")),
    "tab": (".tsv", lambda rows: as_csv(rows, "\t")),
    "bar in .txt": (".txt", lambda rows: as_csv(rows, "|")),
    "UTF-16": (".csv", lambda rows: as_csv(rows, "\t", "utf-16")),
    "Parquet": (
        ".parquet",
        lambda rows: written(lambda sink: pq.write_table(arrow(rows), sink, row_group_size=2)),
    ),
    "Arrow file": (".arrow", lambda rows: as_ipc(rows, pa.ipc.new_file)),
    "Arrow stream": (".arrow", lambda rows: as_ipc(rows, pa.ipc.new_stream)),
    "Feather": (".feather", lambda rows: written(lambda sink: feather.write_feather(arrow(rows), sink))),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".zst": lambda raw: pa.Codec("zstd").compress(raw, asbytes=True),
}
# What JSON, UTF-8 and a cell of a spreadsheet can hold; an empty cell is null.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
) | st.sampled_from(
    ["4", "007", "true", "[1]", "{}", " a", 'say "why"', "a;b,c\td|e", "\r\n", "\u2028", "NA", "null"]
)


@st.composite
def rows_of_comparisons(draw: st.DrawFn) -> Rows:
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(2, 4))
        rows.append(
            {
                "prompt": draw(TEXT),
                "completions": draw(st.lists(TEXT, min_size=count, max_size=count)),
                "ranking": list(range(1, count + 1)),
                # A name that programs write for nothing is no name: test_habits.py.
                "labeler_id": draw(TEXT.filter(filled)),
                "strength": draw(st.none() | st.integers(-(2**53), 2**53)),
                "seconds": draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
                "both_bad": draw(st.none() | st.booleans()),
                "note": draw(st.none() | TEXT),
            }
        )
    return rows


def read_back(path: Path) -> Rows:
    items = read(Source(str(path), layout="comparisons"), Notes())
    return [{name: item.row.get(name) for name in COLUMNS} for item in items]


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=25, deadline=None)
@given(rows=rows_of_comparisons())
def test_a_table_reads_back_as_it_was_written(name: str, rows: Rows) -> None:
    suffix, write = TYPES[name]
    for packing, pack in PACKED.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"rows{suffix}{packing}"
            path.write_bytes(pack(write(rows)))
            assert read_back(path) == rows


EXAMPLE: Rows = [
    {
        "prompt": f"What is {i}?",
        "completions": [f"A number, {i * 7919}.", "Something."],
        "ranking": [1, 2],
        "labeler_id": "ann",
        "strength": i,
        "seconds": None,
        "both_bad": None,
        "note": None,
    }
    for i in range(200)
]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["JSON lines", "JSON list", "comma", "Parquet", "Arrow stream"])
def test_a_packed_file_that_is_cut_off_or_no_packed_file_is_one_line(
    name: str, packing: str, tmp_path: Path
) -> None:
    suffix, write = TYPES[name]
    path = tmp_path / f"rows{suffix}{packing}"
    whole = PACKED[packing](write(EXAMPLE))
    assert len(read_back_of(path, whole)) == 200
    for damaged in (whole[:-20], whole[: len(whole) // 2], b"no such packing", write(EXAMPLE)):
        with pytest.raises(DataError, match="what is packed in it is damaged or cut off") as caught:
            read_back_of(path, damaged)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def read_back_of(path: Path, raw: bytes) -> Rows:
    path.write_bytes(raw)
    return read_back(path)


@pytest.mark.parametrize("name", ["JSON list", "Parquet", "Arrow file", "Arrow stream", "Feather"])
def test_a_file_that_is_cut_off_is_one_line(name: str, tmp_path: Path) -> None:
    suffix, write = TYPES[name]
    whole = write(EXAMPLE)
    for cut in (whole[:-9], whole[: len(whole) // 2], whole[:3]):
        with pytest.raises(DataError) as caught:
            read_back_of(tmp_path / f"rows{suffix}", cut)
        assert str(caught.value).startswith(f"{tmp_path / f'rows{suffix}'}: ")
        assert "cut off" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TYPES)
def test_an_empty_file_and_one_without_rows_are_refused(name: str, tmp_path: Path) -> None:
    suffix, write = TYPES[name]
    path = tmp_path / f"rows{suffix}"
    for raw, said in ((b"", "the file is empty|no rows"), (write([]), "no rows|empty")):
        with pytest.raises(DataError, match=said):
            read_back_of(path, raw)


def test_rows_of_pandas_come_without_their_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame([{"prompt": "c", "completion": "d"}], index=[7])
    frame.to_parquet(tmp_path / "r.parquet")
    frame.to_csv(tmp_path / "r.csv")
    for name in ("r.parquet", "r.csv"):
        assert [record.columns for record in records(tmp_path / name)] == [{"prompt": "c", "completion": "d"}]


def test_texts_of_every_kind_of_arrow(tmp_path: Path) -> None:
    texts = ["a", None, "é" * 3]
    kinds = [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
    for number, kind in enumerate(kinds):
        table = pa.table({"text": pa.array(texts, pa.string()).cast(kind)})
        pq.write_table(table, tmp_path / f"{number}.parquet")
        assert [record.columns["text"] for record in records(tmp_path / f"{number}.parquet")] == texts
    for kind in (pa.binary(), pa.list_(pa.large_binary()), pa.struct([("x", pa.binary())])):
        table = pa.table({"text": pa.nulls(2, kind)})
        pq.write_table(table, tmp_path / "b.parquet")
        with pytest.raises(DataError, match=r"column 'text' holds bytes \(.*\) and not text; decode them"):
            list(records(tmp_path / "b.parquet"))
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    pq.write_table(pa.table({"text": broken}), tmp_path / "u.parquet")
    with pytest.raises(DataError, match="row 2: a text is not UTF-8"):
        list(records(tmp_path / "u.parquet"))


def test_json_that_holds_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    said: list[str] = []

    def rows(document: Any) -> list[Any]:
        path.write_text(json.dumps(document))
        return [record.columns for record in records(path, said.append)]

    table = [{"text": "a"}, {"text": "b"}]
    assert rows(table) == rows({"data": table, "version": 1}) == table
    assert said.pop() == f"{path}: its rows are the list 'data'; beside it 'version', not read"
    assert rows({"train": table[:1], "valid": table[1:]}) == [
        {"text": "a", "split": "train"},
        {"text": "b", "split": "validation"},
    ]
    assert said.pop() == f"{path}: its splits are train (train), valid (validation)"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert rows({"messages": turns}) == [{"messages": turns}]
    assert rows({"chosen": turns, "rejected": turns}) == [{"chosen": turns, "rejected": turns}]
    two = [{"a": "x", "b": "z"}, {"a": "y", "b": "w"}]
    frame = pd.DataFrame(two)
    for document in (
        {"a": ["x", "y"], "b": ["z", "w"]},
        *(json.loads(frame.to_json(orient=orient)) for orient in ("columns", "index", "split")),
        {"features": [{"name": "a"}], "rows": [{"row_idx": n, "row": row} for n, row in enumerate(two)]},
        {"data": {"rows": two}},
    ):
        assert rows(document) == two, document
    named = frame.rename(columns={"a": "prompt"}, index={0: "first", 1: "second"})
    for orient in ("columns", "index"):
        assert rows(json.loads(named.to_json(orient=orient))) == named.to_dict(orient="records")
    cut = {"features": [{}], "rows": [{"row_idx": 7, "row": {"a": "x"}, "truncated_cells": ["a"]}]}
    with pytest.raises(DataError, match=r"row 7: cells \['a'\] are cut off"):
        rows(cut)
    with pytest.raises(DataError, match="row 2: 1 cells for 2 columns"):
        rows({"columns": ["a", "b"], "data": [["x", "y"], ["z"]]})


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_a_list_is_read_in_pieces_wherever_they_end(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "CHUNK", chunk)
    monkeypatch.setattr(json_documents, "CHUNK", chunk)
    rows = [{"a": "é🙂\n]", "b": [1, 23.5, None, True]}, {"a": "", "c": {"d": []}}, {}]
    path = tmp_path / "r.json"
    for indent in (None, 2):
        for encoding in ("utf-8-sig", "utf-16"):
            path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False) + "\n", encoding=encoding)
            assert [record.columns for record in records(path)] == rows
    for text, said in (
        ('[{"a": 1}, {"a": 12', "row 2: not valid JSON .*; is the file cut off"),
        ('[{"a": 1}\n,\n{"a": 1 2}]', "row 2: not valid JSON .* at line 3"),
        ('[{"a": 1} {"a": 2}]', "row 1: not valid JSON .*Expecting ',' delimiter"),
        ('[{"a": 1}, {"a": 1, "a": 2}, {}]', "row 2: the key 'a' stands twice"),
        ('[{"a": 1}]\n[{"a": 2}]', "more follows behind the list"),
        ('[{"a": 1},]', "row 2: not valid JSON"),
        ('[{"a": 1}', "row 1: not valid JSON .*; is the file cut off"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            list(records(path))
    path.write_bytes(b'[\n{"a": "\xff"}]')
    with pytest.raises(DataError, match=r"line 2: not UTF-8 .byte 0xff.; save"):
        list(records(path))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet", ".arrow"])
def test_memory_does_not_grow_with_the_file(suffix: str, tmp_path: Path) -> None:
    def most(count: int) -> int:
        rows = [{"prompt": f"{i}", "completion": "x" * 1000} for i in range(count)]
        path = tmp_path / f"{count}{suffix}"
        table = pa.Table.from_pylist(rows)
        if suffix == ".json":
            path.write_text(json.dumps(rows))
        elif suffix == ".jsonl":
            path.write_bytes(as_json_lines(rows))
        elif suffix == ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        elif suffix == ".parquet":
            pq.write_table(table, path, row_group_size=1000)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=1000)
        del rows, table
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        most_arrow = 0
        for number, _ in enumerate(records(path)):
            if number % 500 == 0:
                most_arrow = max(most_arrow, pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1] + most_arrow
        tracemalloc.stop()
        return peak

    small, large = most(2_000), most(20_000)
    assert large < 1.5 * small + 2_000_000
    assert large < 12_000_000  # of 20 MB


def test_a_row_of_50_megabytes_is_read(tmp_path: Path) -> None:
    row = EXAMPLE[0] | {"prompt": "long " * 10_000_000}
    for name in ("JSON lines", "comma", "Parquet"):
        suffix, write = TYPES[name]
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(write([EXAMPLE[1], row]))
        first, second = read_back(path)
        assert (first["prompt"], len(second["prompt"])) == ("What is 1?", 50_000_000)
        path.unlink()
