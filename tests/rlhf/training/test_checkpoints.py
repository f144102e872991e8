"""Checkpoints on disks that tear, fill up or close: a training goes on from the last that is whole."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from small_base import DEMONSTRATIONS, base
from tiny_ppo import Stop, state, tokenizer, trainer_of

from rlhf.compute import deterministic
from rlhf.data.errors import DataError
from rlhf.models.policy import load_policy
from rlhf.rl.trainer import PPOTrainer
from rlhf.training import checkpoints
from rlhf.training.checkpoints import last_checkpoint, refuse_no_room
from rlhf.training.loop import train
from rlhf.training.pretrain import pretrain


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "cut off": lambda folder: os.truncate(folder / "optimizer.pt", 100),
    "empty": lambda folder: (folder / "trainer_state.json").write_bytes(b""),
    "flipped byte": lambda folder: flip(folder / "networks.safetensors"),
    "missing file": lambda folder: (folder / "scheduler.pt").unlink(),
    "no list of files": lambda folder: (folder / "whole.json").unlink(),
    "list cut off": lambda folder: os.truncate(folder / "whole.json", 30),
    "empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The checkpoints 4 and 8 of three updates of PPO, and the weights with which the training ends."""
    folder = tmp_path_factory.mktemp("ppo")
    with pytest.raises(KeyboardInterrupt):
        train(trainer_of(tokenizer, folder / "run", num_updates=3, callbacks=[Stop(9)]))
    shutil.copytree(folder / "run", folder / "kept")
    trainer = trainer_of(tokenizer, folder / "run", num_updates=3)
    train(trainer)
    return folder / "kept", state(trainer)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_torn_checkpoint_gives_way_to_the_one_before(
    kind: str, whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    DAMAGE[kind](folder / "checkpoint-8")
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    said = capsys.readouterr().out
    assert said.startswith(f"{folder}/checkpoint-8: damaged (")
    assert said.endswith("), so it is left out; the newest that is whole is checkpoint-4\n")
    assert not (folder / "checkpoint-8").exists()
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    assert capsys.readouterr().out == ""


def test_the_training_ends_with_the_same_weights_from_the_one_before_and_from_none(
    whole: tuple[Path, dict[str, torch.Tensor]], tokenizer, tmp_path: Path, capsys
) -> None:
    for torn in (["checkpoint-8"], ["checkpoint-8", "checkpoint-4"]):
        folder = tmp_path / str(len(torn))
        shutil.copytree(whole[0], folder)
        for name in torn:
            DAMAGE["cut off"](folder / name)
        trainer = trainer_of(tokenizer, folder, num_updates=3)
        train(trainer)
        said = capsys.readouterr().out
        assert ("none is whole, so training starts over" in said) == (len(torn) == 2)
        assert (f"continuing from {folder}/checkpoint-4" in said) == (len(torn) == 1)
        for name, weight in state(trainer).items():
            assert torch.equal(weight, whole[1][name]), name


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing" / "checkpoint-16").mkdir(parents=True)
    assert last_checkpoint(tmp_path) is None
    assert not (tmp_path / ".writing").exists()
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_every_file_of_a_checkpoint_is_on_the_disk_before_its_name(
    tokenizer, tmp_path: Path, monkeypatch
) -> None:
    placed = []

    def put(beside: Path, path: Path) -> None:
        placed.append((path.name, sorted(file.name for file in beside.iterdir())))
        beside.rename(path)

    monkeypatch.setattr(checkpoints, "put_in_place", put)  # which flushes all before it renames
    train(trainer_of(tokenizer, tmp_path, num_updates=1))
    [(name, files)] = placed
    assert name == "checkpoint-4"
    assert {"networks.safetensors", "optimizer.pt", "trainer_state.json", "whole.json"} <= set(files)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full: .* are free; make room on it"),
        (errno.EROFS, "cannot be written: Read-only file system; let this user write there"),
    ],
)
def test_a_disk_that_takes_no_checkpoint_is_one_line_and_the_next_run_goes_on(
    number: int,
    said: str,
    whole: tuple[Path, dict[str, torch.Tensor]],
    tokenizer,
    tmp_path: Path,
    monkeypatch,
) -> None:
    def fail(*args) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("rlhf.rl.trainer.save_file", _after(1, fail, PPOTrainer))
        with pytest.raises(
            DataError, match=rf"checkpoint-8:? {said}, and run again: the training goes on from "
        ):
            train(trainer_of(tokenizer, tmp_path, num_updates=3))
    assert not (tmp_path / ".writing").exists()
    trainer = trainer_of(tokenizer, tmp_path, num_updates=3)
    train(trainer)
    for name, weight in state(trainer).items():
        assert torch.equal(weight, whole[1][name]), name


def _after(times: int, fail, kind):
    """What fails once it has been called so many times."""
    from rlhf.rl.trainer import save_file

    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        return fail() if len(calls) > times else save_file(*args, **kwargs)

    return call


def test_a_disk_too_small_for_one_checkpoint_is_said_before_the_first_step(
    base: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(checkpoints, "free_bytes", lambda path: 100_000)
    deterministic(0, 1)
    policy = load_policy(base)
    with pytest.raises(
        DataError, match=r"takes [\d.]+ MB at least, and its disk has 0\.1 MB free: make room"
    ):
        pretrain(
            policy,
            [row["prompt"] for row in DEMONSTRATIONS],
            checkpoints=tmp_path,
            seed=0,
            steps=2,
            batch_size=4,
            learning_rate=1e-3,
            muon_learning_rate=0.02,
            save_every=1,
        )
    policy.model.requires_grad_(False)
    refuse_no_room(tmp_path, policy.model)  # nothing learns, so that nothing is to be kept
