"""CSV as spreadsheets and programs write it: what parts cells, headers, cells that hold more than text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf.data.errors import DataError
from rlhf.data.formats.cells import converters, typed
from rlhf.data.formats.records import records
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Source, read


def cells(path: Path, content: str | bytes, said: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a file with this content, every cell a text."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [record.columns for record in records(path, (said if said is not None else []).append)]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_header_tells_what_parts_the_cells_and_the_texts_do_not(sign: str, tmp_path: Path) -> None:
    text = "a, b; c\td | e"
    rows = cells(tmp_path / "r.csv", f'prompt{sign}completion\n"{text}"{sign}"{text}; {text}"\n')
    assert rows == [{"prompt": text, "completion": f"{text}; {text}"}]


def test_cells_beside_the_header_s_sign_need_no_quotes(tmp_path: Path) -> None:
    rows = cells(tmp_path / "r.csv", "prompt;completion\none, two, three;four, five\n")
    assert rows == [{"prompt": "one, two, three", "completion": "four, five"}]


def test_a_name_with_another_sign_has_to_be_quoted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 columns by comma as by semicolon; quote the names"):
        cells(tmp_path / "r.csv", "a,b;c\n1,2\n")
    assert cells(tmp_path / "q.csv", '"a, or";"b"\n1;2\n') == [{"a, or": "1", "b": "2"}]


def test_a_single_column_needs_no_sign(tmp_path: Path) -> None:
    assert cells(tmp_path / "r.csv", "text\none\ntwo words\n") == [{"text": "one"}, {"text": "two words"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_and_quoted_newlines(end: str, tmp_path: Path) -> None:
    content = end.join(['"a","b"', f'"x{end}y","say ""why"""', "", "p,q"]) + end
    assert cells(tmp_path / "r.csv", content) == [
        {"a": f"x{end}y", "b": 'say "why"'},
        {"a": "p", "b": "q"},
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_spreadsheets(encoding: str, tmp_path: Path) -> None:
    rows = cells(tmp_path / "r.csv", "prompt\tcompletion\nhéllo\t🙂\u2028\n".encode(encoding))
    assert rows == [{"prompt": "héllo", "completion": "🙂\u2028"}]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("a,b\né,1\n".encode("cp1252"), "line 2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"PK\x03\x04rest", "a ZIP archive or a spreadsheet"),
        (b"\x1f\x8brest", "packed by gzip"),
        (b"a,b,a\n1,2,3\n", "the header names 'a' twice"),
        (b"a, a\n1,2\n", "the header names 'a' twice"),
        (b"\n\n", "no rows, not even a header"),
        (b'a,b\n1,"say \\"why\\", too"\n', "row 1: not valid CSV"),
        (
            b'a,b\n1,"open\n2,3\n',
            "row 1: not valid CSV (unexpected end of data); a quoted text has no closing",
        ),
        (b"a,b\n1,2\n3\n", "row 2: 1 cells, fewer than the 2 of the header"),
        (b"a,b\n1,2,3\n", "row 1: 3 cells, more than the 2 of the header; quote the texts in which a comma"),
    ],
)
def test_what_is_no_table_is_one_line(raw: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        cells(tmp_path / "r.csv", raw)
    assert str(caught.value).startswith(f"{tmp_path / 'r.csv'}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_of_row_numbers_are_left_out_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    rows = cells(tmp_path / "r.csv", ",Unnamed: 0,prompt,completion,\n0,0,a,b,\n1,1,c,d,\n,,,,\n", said)
    assert rows == [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert [line.split(": ", 1)[1] for line in said] == [
        "column 1 of the header has numbers of rows and is left out",
        "column 2 of the header has numbers of rows and is left out",
        "rows of empty cells, such as row 3, are left out",
    ]


def test_the_first_line_of_excel_names_the_sign(tmp_path: Path) -> None:
    assert cells(tmp_path / "r.csv", "sep=;\r\na;b,c\r\n1;2\r\n") == [{"a": "1", "b,c": "2"}]


def as_values(*rows: dict[str, str | None]) -> list[dict[str, Any]]:
    told = converters(rows)
    return [typed(row, told) for row in rows]


def test_numbers_in_columns_of_texts_stay_texts() -> None:
    rows = as_values(
        {"prompt": "2+2", "chosen": "4", "response_b": "5.0", "score_a": "4", "margin": "0.5"},
        {"prompt": "3", "chosen": "true", "response_b": "007", "score_a": "5", "margin": None},
    )
    assert rows == [
        {"prompt": "2+2", "chosen": "4", "response_b": "5.0", "score_a": 4, "margin": 0.5},
        {"prompt": "3", "chosen": "true", "response_b": "007", "score_a": 5, "margin": None},
    ]


def test_lists_and_truth_values_are_read_where_a_column_holds_nothing_else() -> None:
    turns = '[{"role": "user", "content": "a"}]'
    [row] = as_values({"messages": turns, "chosen": turns, "label": "TRUE", "answer": "[1]", "votes": "[1]"})
    asked = [{"role": "user", "content": "a"}]
    assert row == {"messages": asked, "chosen": asked, "label": True, "answer": "[1]", "votes": [1]}
    rows = as_values({"winner": "1"}, {"winner": "tie"})
    assert rows == [{"winner": "1"}, {"winner": "tie"}]


@pytest.mark.parametrize("cell", ["1,5", "007", "+1", ".5", "1.", "NaN", "1 2"])
def test_what_is_no_number_in_json_is_none(cell: str) -> None:
    assert as_values({"margin": cell}) == [{"margin": cell}]


def comparisons(path: Path) -> list[Any]:
    return [item.row for item in read(Source(str(path), layout="comparisons"), Notes())]


def test_csv_lists_must_be_json(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text('prompt,completions,ranking\np,"[""a"", ""b""]","[1, 2]"\nq,"a; b","[1, 2]"\n')
    with pytest.raises(
        DataError, match=r"row 2: column 'completions': 'a; b' is no list<.*>; write a list of texts"
    ):
        comparisons(path)
    path.write_text("prompt,completions,ranking\np,\"['a', 'b']\",\"[1, 2]\"\n")  # as pandas prints lists
    with pytest.raises(DataError, match=r"row 1: column 'completions'.* is no list"):
        comparisons(path)


def test_a_csv_cell_that_is_json_text_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('prompt,completions,ranking,policies\np,"[""a"", ""b""]","[1, 2]","""ab"""\n')
    with pytest.raises(DataError, match=r"column 'policies': .* is no list<.*>; write a list of texts"):
        comparisons(path)
