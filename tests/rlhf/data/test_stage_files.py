"""Files that stages write: whole or not at all, JSON without NaN."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json, written_beside


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_holds_no_nan_and_the_line_names_the_figure(tmp_path: Path, number: float) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": None})
    with pytest.raises(DataError, match=r"metrics\.json: policies\.ppo\.1 is NaN or infinite"):
        write_json(path, {"loss": 0.5, "policies": {"ppo": [0.1, number]}})
    assert read_json(path) == {"loss": None}


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": "é",\n  "b": 1\n}\n'

    def fail() -> None:
        with written_beside(tmp_path / "a.json") as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for names in (("a", "b"), ("c",)):
        with written_beside(tmp_path / "folder") as beside:
            beside.mkdir()
            for name in names:
                (beside / name).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["c"]
