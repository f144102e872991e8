"""A model folder's hash is that of what is read of it."""

from __future__ import annotations

import os

import pytest

from rlhf.data.errors import DataError
from rlhf.data.model_folder import folder_hash, model_files


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "params.json").write_text("{}")
    return tmp_path


def test_only_what_decides_the_model_is_hashed(folder) -> None:
    before = folder_hash(folder)
    names = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert [file.name for file in model_files(folder)] == names
    (folder / "README.md").write_text("a better text")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "original" / "params.json").write_text("[]")
    assert folder_hash(folder) == before


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
)
def test_another_byte_or_name_is_another_hash(folder, name) -> None:
    before = folder_hash(folder)
    (folder / name).write_text(name.upper())  # as many bytes
    os.utime(folder / name, ns=(1, 1))
    changed = folder_hash(folder)
    (folder / name).rename(folder / f"other-{name}") if name != "config.json" else None
    assert before != changed
    assert name == "config.json" or folder_hash(folder) not in (before, changed)


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path) -> None:
    with pytest.raises(DataError, match=r"^\S+nowhere: no such folder; [^\n]*base.revision$"):
        folder_hash(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no config\.json here"):
        folder_hash(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="adapters without their model; merge them"):
        folder_hash(tmp_path)
