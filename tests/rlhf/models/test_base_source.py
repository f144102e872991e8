"""A base model comes from the Hub or a folder: fetched once, as safetensors, or refused in one line."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import environment
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from tiny_ppo import words_tokenizer

from rlhf.data.errors import DataError
from rlhf.models.base_source import fetch, find


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A folder as a Hub has it: weights in two files, pickled ones and other formats beside."""
    folder, tokenizer = tmp_path_factory.mktemp("llama"), words_tokenizer()
    tiny_model("llama", tokenizer).save_pretrained(folder, max_shard_size="20KB")
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    return folder


def weights(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.safetensors"))


def downloaded(hub) -> list[str]:
    """The files of weights that were asked for whole."""
    whole = [path for method, path, part in hub.requests if method == "GET" and not part]
    return [path for path in whole if path.endswith(".safetensors")]


def test_a_model_of_the_hub_is_fetched_once_and_then_taken_from_the_cache(hub, llama, monkeypatch) -> None:
    commit = hub.add("team/llama", llama)
    source = find("team/llama", commit, None)
    assert [name for name in source.weights if hub.asked(name)] == list(source.weights)
    assert downloaded(hub) == []
    assert source.config["model_type"] == "llama"
    whole = sum(p.numel() for name in weights(llama) for p in load_file(llama / name).values())
    assert source.stored == {"F32": whole}
    assert source.missing == source.bytes == sum((llama / name).stat().st_size for name in source.weights)

    fetched = fetch(source)
    assert fetched.missing == 0
    for name in weights(llama):
        assert (fetched.folder / name).read_bytes() == (llama / name).read_bytes()
    unwanted = [
        path for _, path, _ in hub.requests if "resolve" in path and ("onnx" in path or ".bin" in path)
    ]
    assert unwanted == []
    downloads = downloaded(hub)
    assert len(downloads) == len(set(downloads)) == len(source.weights) > 1

    hub.requests.clear()
    again = find("team/llama", commit, None)
    assert fetch(again) == again == fetched
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find("team/llama", commit, None) == fetched


def test_another_process_takes_it_from_hf_home_without_the_hub(hub, llama, tmp_path) -> None:
    """The variables of the Hub's own client count: HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE."""
    commit = hub.add("team/llama", llama)
    code = (
        "from rlhf.models.base_source import find, fetch\n"
        f"print(fetch(find('team/llama', '{commit}', None)).folder)"
    )

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **environment(hub, tmp_path / "elsewhere", **more)}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)

    refused = run(HF_HUB_OFFLINE="1")
    assert "team/llama is not whole in" in refused.stderr
    assert (
        "HF_HUB_OFFLINE keeps from fetching it: unset that, or run `hf download team/llama" in refused.stderr
    )
    assert hub.requests == []
    done = run()
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "elsewhere" / "hub")
    hub.requests.clear()
    offline = run(HF_HUB_OFFLINE="1")
    assert (offline.stdout, hub.requests) == (done.stdout, [])


def test_a_download_that_was_cut_short_is_refused_offline_and_goes_on_online(hub, llama, monkeypatch) -> None:
    commit = hub.add("team/llama", llama)
    source = find("team/llama", commit, None)
    fetch(source)
    first, *_ = source.weights
    (source.folder / first).resolve().unlink()
    (source.folder / first).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"^team/llama is not whole in [^\n]*$"):
        find("team/llama", commit, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.requests.clear()
    left = find("team/llama", commit, None)
    assert left.missing == left.weights[first]
    fetch(left)
    assert downloaded(hub) == [f"/team/llama/resolve/{commit}/{first}"]


def test_a_gated_model_says_where_its_licence_is_accepted(hub, llama, monkeypatch) -> None:
    commit = hub.add("team/gated", llama, gated=True)
    with pytest.raises(DataError) as refused:
        find("team/gated", commit, None)
    assert str(refused.value) == (
        f"team/gated is gated: accept its licence at {hub.url}/team/gated with an account, and set HF_TOKEN "
        "to a token of it"
    )
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(DataError, match=r"accept its licence at \S+ with the account of your token$"):
        find("team/gated", commit, None)
    monkeypatch.setenv("HF_TOKEN", "accepted")
    assert fetch(find("team/gated", commit, None)).missing == 0


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (
            "team/nobody",
            "0" * 40,
            r"team/nobody: no such folder, and no such model at \S+, or it is private;",
        ),
        ("team/nobody", None, r"team/nobody: no such folder, and no such model"),
        (
            "team/llama",
            "0" * 40,
            r"team/llama has no commit 0{40}; take one from \S+/team/llama/commits/main",
        ),
        (
            "team/llama",
            None,
            r"base\.revision is not set; set it to a full commit: [0-9a-f]{40} is the newest",
        ),
        ("a b/c", "0" * 40, r"a b/c: no such folder, and no id of a model on the Hub; check base\.path"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(name, revision, message, hub, llama) -> None:
    hub.add("team/llama", llama)
    with pytest.raises(DataError, match=rf"{message}[^\n]*$"):
        find(name, revision, None)


def test_a_hub_that_does_not_answer_is_one_line(hub, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again, later and later
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(DataError, match=r"is not whole in \S+, and http\S+ does not answer \([^\n]*$"):
            find("team/llama", "0" * 40, None)
        with pytest.raises(DataError, match=r"it is no folder here, and of a Hub id a full commit is wanted"):
            find("team/llama", None, None)


def test_nothing_but_safetensors_is_read(hub, tmp_path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for name, commit, place in (("team/old", hub.add("team/old", folder), None), (str(folder), None, folder)):
        with pytest.raises(
            DataError, match=r"no model\.safetensors or [^\n]*: no weights at all; `save_pretrained`"
        ):
            find(name, commit, place)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(DataError, match=r"only pytorch_model\.bin, which can hold code; convert them where"):
        find(str(folder), None, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"no config\.json, so this is no model"),
        (
            lambda f: (f / "config.json").rename(f / "adapter_config.json"),
            r"adapters without their model; merge",
        ),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json holds no JSON object"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 4), r"its weights are no whole safetensors"),
        (
            lambda f: (f / "model.safetensors").rename(f / "a.safetensors"),
            r"no model\.safetensors or model\.safetensors\.index\.json: no weights",
        ),
    ],
)
def test_a_folder_that_is_no_whole_model_is_one_line(change, message, tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert find("here", None, tmp_path).stored == {"F32": 2}
    change(tmp_path)
    with pytest.raises(DataError, match=rf"^here: [^\n]*{message}[^\n]*$"):
        find("here", None, tmp_path)


def test_an_index_that_names_a_file_that_is_not_there_is_one_line(llama, tmp_path) -> None:
    for file in llama.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        DataError, match=r"index\.json names model-00001-of-\d+\.safetensors, which is not there"
    ):
        find("here", None, tmp_path)


def test_a_revision_of_a_folder_is_refused(llama) -> None:
    with pytest.raises(DataError, match=r"a folder has no revision; set base\.revision to null"):
        find("here", "0" * 40, llama)


def test_sizes_and_types_are_known_before_the_weights_are_asked_for(hub, tmp_path) -> None:
    """A model of 400 GB: what is read of its weights is their header."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    header = {"a": {"dtype": "BF16", "shape": [200_000, 1_000_000], "data_offsets": [0, 4 * 10**11]}}
    raw = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    commit = hub.add("team/huge", tmp_path, sizes={"model.safetensors": 4 * 10**11})
    source = find("team/huge", commit, None)
    assert (source.missing, source.stored) == (4 * 10**11, {"BF16": 2 * 10**11})
    assert [part for _, _, part in hub.asked("model.safetensors")] == ["bytes=0-100000"]
