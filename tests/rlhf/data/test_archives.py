"""Archives are read as the folder that they hold, and nothing of them gets out of where they are unpacked."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from layout_reading import read_path

from rlhf.data.errors import DataError
from rlhf.data.formats import archives
from rlhf.data.formats.archives import unpacked
from rlhf.data.formats.limits import at_most
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Source, read
from rlhf.data.sources import source_hash

PAIR = {"prompt": "Why?", "chosen": "x", "rejected": "y"}
LINES = (json.dumps(PAIR) + "\n").encode()


def tar(
    path: Path, change: Callable[[tarfile.TarInfo], object] = lambda member: None, mode: str = "w"
) -> Path:
    """A tar with one file, whose entry may be changed."""
    member = tarfile.TarInfo("pairs/train.jsonl")
    member.size = len(LINES)
    change(member)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.addfile(member, io.BytesIO(LINES))
    return path


def zipped(path: Path, name: str | zipfile.ZipInfo = "pairs/train.jsonl") -> Path:
    """A zip with one file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, LINES)
    return path


def test_archives_are_read_as_their_folder(tmp_path: Path) -> None:
    packed = [tar(tmp_path / f"a.tar.{kind}", mode=f"w:{kind}") for kind in ("gz", "bz2", "xz")]
    packed += [tar(tmp_path / "a.tar"), zipped(tmp_path / "a.zip"), zipped(tmp_path / "pairs.jsonl.zip")]
    with pa.output_stream(str(tmp_path / "a.tar.zst"), compression="zstd") as file:
        file.write((tmp_path / "a.tar").read_bytes())
    for path in (*packed, tmp_path / "a.tar.zst"):
        items, _ = read_path(path)
        assert [item.row["completions"] for item in items] == [["x", "y"]], path
        assert items[0].where == f"{path}/pairs/train.jsonl: row 1"
        assert items[0].row["source"] == "train.jsonl"


def test_what_is_wrong_in_an_archive_names_it_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("d.jsonl", LINES + b"{oops\n" + LINES)
    with pytest.raises(DataError, match=rf"^{path}/d\.jsonl: row 2: not valid JSON"):
        read_path(path)
    aside: list[str] = []
    list(read(Source(str(path), unreadable="quarantine"), Notes(), lambda row: aside.append(row.where)))
    assert aside == [f"{path}/d.jsonl: row 2"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", b"hello")
    with pytest.raises(DataError, match=rf"^{path}: no file of a known type"):
        read_path(path)


def test_an_archive_is_pinned_by_its_own_bytes(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip")
    before = source_hash(path)
    assert before == source_hash(zipped(tmp_path / "b.zip"))
    assert before != source_hash(zipped(path, "other.jsonl"))


def link(kind: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname, member.size = kind, "/etc/passwd", 0

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda member: setattr(member, "name", "/tmp/out.jsonl"), "would lie outside"),
        (lambda member: setattr(member, "name", "a/../../out.jsonl"), "would lie outside"),
        (link(tarfile.SYMTYPE), "is a link or a device"),
        (link(tarfile.LNKTYPE), "is a link or a device"),
        (link(tarfile.FIFOTYPE), "is a link or a device"),
    ],
)
def test_what_would_get_out_of_a_tar_is_refused(
    change: Callable[[tarfile.TarInfo], object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        unpacked(tar(tmp_path / "a.tar.gz", change, "w:gz"))


def test_what_would_get_out_of_a_zip_is_refused(tmp_path: Path) -> None:
    linked = zipfile.ZipInfo("a.jsonl")
    linked.external_attr = 0o120777 << 16
    for name, said in (("../out.jsonl", "outside"), ("/out.jsonl", "outside"), (linked, "is a link")):
        with pytest.raises(DataError, match=said):
            unpacked(zipped(tmp_path / "a.zip", name))
        (tmp_path / "a.zip").unlink()


def test_too_much_or_too_little_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives.tempfile, "mkdtemp", lambda prefix: str(made))
    for name, pack in (("big.zip", zipped), ("big.tar.gz", lambda path: tar(path, mode="w:gz"))):
        made = tmp_path / f"unpacked-{name}"
        made.mkdir()
        path = pack(tmp_path / name)
        with at_most(10), pytest.raises(DataError, match="unpacks to more than 0 MiB"):
            unpacked(path)
        assert not made.exists()
    for path in (tmp_path / "big.zip", tmp_path / "big.tar.gz"):
        made = tmp_path / f"cut-{path.name}"
        made.mkdir()
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(DataError, match="damaged, cut off or locked"):
            unpacked(path)
        assert not made.exists()


def test_an_archive_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 1)
    assert unpacked(zipped(tmp_path / "one.zip")).is_dir()
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.jsonl", LINES)
        archive.writestr("b.jsonl", LINES)
    with pytest.raises(DataError, match="holds more than 1 files"):
        unpacked(tmp_path / "two.zip")


@pytest.mark.parametrize("name", ["pairs.jsonl.gz", "pairs.csv.gz", "pairs.jsonl.zst", "pairs.parquet.gz"])
def test_a_packed_file_that_unpacks_to_too_much_is_refused(name: str, tmp_path: Path) -> None:
    """By a small limit; what such a file could fill is the memory or the disk."""
    path, content = tmp_path / name, LINES * 100
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(content))
    else:
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(content)
    assert path.stat().st_size < 1000 < len(content)
    with at_most(1000), pytest.raises(DataError, match="unpacks to more than 0 MiB; bring it unpacked"):
        read_path(path)
    if ".jsonl" in name:
        assert len(read_path(path)[0]) == 100
