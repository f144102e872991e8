"""Faults of disks, files and checkouts, done to the small main job: it heals itself, or ends in one line.

A scenario is a function of the lab and a random generator; it leaves the job as it ended.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from job import STAGES, Ended, Job
from lab import Lab, Try, stages_of

FAMILY = "storage"
SECONDS_OF_A_DAY = 86_400
CONFLICT = "<<<<<<< HEAD\n{ours}=======\n{theirs}>>>>>>> other\n"


def healed(lab: Lab, job: Job, ended: Ended, done: Try) -> None:
    """The command must have ended well, with the bytes of an undisturbed run and nothing left."""
    done.said = ended.line
    if ended.code:
        done.fault(f"the command failed: {ended.said[-800:]}")
    done.fault(*job.faults(lab.expected))


def refused_then_healed(lab: Lab, job: Job, ended: Ended, done: Try) -> None:
    """The disturbed command may end well or in one clear line; without the fault the next one must heal."""
    done.said = ended.line
    if ended.code == 0:
        done.fault(*job.faults(lab.expected))
        return
    if not ended.clear:
        done.fault(f"no clear line: {ended.said[-800:]}")
    again = job.pipeline()
    if again.code:
        done.fault(f"the next run failed, too: {again.said[-800:]}")
    done.fault(*job.faults(lab.expected))


def cached_files(job: Job, output: str) -> list[Path]:
    """The files of an output in DVC's cache."""
    cache = job.clone / ".dvc/cache/files/md5"
    md5 = job.lock()[output]
    index = cache / md5[:2] / md5[2:]
    if not md5.endswith(".dir"):
        return [index]
    return [cache / entry["md5"][:2] / entry["md5"][2:] for entry in json.loads(index.read_text())]


def flip(path: Path, rng: random.Random) -> None:
    """Change one bit, as a disk does: the times and the mode of the file stay."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[rng.randrange(len(content) // 2, len(content))] ^= 1 << rng.randrange(8)
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path, rng: random.Random) -> None:
    """Lose the end of a file, as a power cut does."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[: rng.randrange(len(content))])


def a_flipped_bit_in_the_cache(lab: Lab, rng: random.Random) -> Try:
    """The checkout's outputs are gone, and a file in DVC's cache is not what its name says."""
    job = lab.back("done")
    output = rng.choice(["models/pretrained", "models/sft", "models/reward", "models/ppo"])
    file = max(cached_files(job, output), key=lambda path: path.stat().st_size)
    flip(file, rng)
    shutil.rmtree(job.clone / "models")
    shutil.rmtree(job.clone / ".runs")
    done = Try(FAMILY, "a flipped bit in DVC's cache", output)
    healed(lab, job, job.pipeline(), done)
    return done


def a_truncated_model(lab: Lab, rng: random.Random) -> Try:
    """A model in the checkout has lost its end."""
    job = lab.back("done")
    output = rng.choice(["models/pretrained", "models/sft", "models/reward", "models/ppo"])
    cut(job.clone / output / "model.safetensors", rng)
    done = Try(FAMILY, "a truncated safetensors file in the checkout", output)
    healed(lab, job, job.pipeline(), done)
    return done


def a_torn_checkpoint(lab: Lab, rng: random.Random) -> Try:
    """Everything is killed in a training, and a file of its newest checkpoint has lost its end."""
    job, stage = lab.back(), rng.choice(["base", "sft", "reward", "ppo"])
    process = job.start("flows.run", log=job.state.parent / "life.log")
    while process.poll() is None:
        steps = [step for training, step in job.checkpoints().items() if training.split("/")[0] == stage]
        if steps:
            break
        time.sleep(0.02)
    job.kill()
    process.wait()
    whole = (job.clone / "checkpoints" / stage).rglob("checkpoint-*")
    newest = max(
        (path for path in whole if ".writing" not in path.parts), key=lambda path: path.stat().st_mtime
    )
    files = sorted(path for path in newest.iterdir() if path.is_file() and path.stat().st_size)
    file = rng.choice(files)
    cut(file, rng)
    done = Try(FAMILY, "a torn checkpoint", f"{stage}: {newest.name}/{file.name}")
    refused_then_healed(lab, job, job.pipeline(), done)
    return done


def a_lock_file_in_conflict(lab: Lab, rng: random.Random) -> Try:
    """A merge left its marks in dvc.lock."""
    job = lab.back("done")
    lock = job.clone / "dvc.lock"
    lines = lock.read_text().splitlines(keepends=True)
    place = rng.randrange(10, len(lines) - 10)
    mark = CONFLICT.format(ours=lines[place], theirs=lines[place].replace("1", "2"))
    whole = lock.read_text()
    lock.write_text("".join([*lines[:place], mark, *lines[place + 1 :]]))
    done = Try(FAMILY, "dvc.lock in conflict", f"line {place + 1} of {len(lines)}")
    ended = job.pipeline()
    done.said = ended.line
    if ended.code == 0:
        done.fault(*job.faults(lab.expected))
        return done
    done.outcome = "refused"
    if not ended.clear or "dvc.lock" not in ended.line:
        done.fault(f"no clear line: {ended.said[-800:]}")
    lock.write_text(whole)
    again = job.pipeline()
    done.fault(*([] if again.code == 0 else [again.said[-500:]]), *job.faults(lab.expected))
    return done


def a_clock_that_moved_back(lab: Lab, rng: random.Random) -> Try:
    """All that was written is a day in the future; a killed training goes on."""
    job = lab.back()
    process = job.start("flows.run", log=job.state.parent / "life.log")
    while process.poll() is None and "sft" not in stages_of(job):
        time.sleep(0.05)
    job.kill()
    process.wait()
    for path in job.clone.parent.rglob("*"):
        if not path.is_symlink() and path.exists():
            os.utime(path, (time.time() + SECONDS_OF_A_DAY,) * 2)
    done = Try(FAMILY, "a clock that moved back", "by a day, after a kill in sft")
    healed(lab, job, job.pipeline(), done)
    return done


def two_runs_in_one_checkout(lab: Lab, rng: random.Random) -> Try:
    """Two commands at once: every stage is run by one of them."""
    job = lab.back()
    logs = [job.state.parent / f"{name}.log" for name in ("first", "second")]
    pair = [job.start("flows.run", "--name", log.stem, log=log) for log in logs]
    done = Try(FAMILY, "two runs in one checkout", "started at once")
    for process, log in zip(pair, logs, strict=True):
        if process.wait():
            done.fault(f"{log.stem} failed: {log.read_text()[-500:]}")
    healed(lab, job, job.pipeline(), done)
    return done


def two_clones_on_one_cache(lab: Lab, rng: random.Random) -> Try:
    """Two clones, each with a state folder of its own, share DVC's cache and run at once."""
    job = lab.back()
    other = Job(job.state.parent / "other", of=job)
    other.set_up()
    for each in (job, other):
        config = each.clone / ".dvc/config.local"
        config.write_text(f'[cache]\n    dir = "{job.state.parent / "shared"}"\n')
    done = Try(FAMILY, "two clones on one cache", "started at once")
    try:
        pair = [each.start("flows.run", log=each.state.parent / "run.log") for each in (job, other)]
        for process, each in zip(pair, (job, other), strict=True):
            if process.wait():
                done.fault(f"failed: {(each.state.parent / 'run.log').read_text()[-500:]}")
        for each in (job, other):
            done.fault(*each.faults(lab.expected))
        done.said = Ended(0, (other.state.parent / "run.log").read_text()).line
    finally:
        other.kill_all()
    return done


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of its own at a folder; yields a function that gives it other mount options."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", str(place)], check=True)
    try:
        yield (
            lambda options: (
                subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True) and None
            )
        )
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


PLACES = {
    "DVC's cache": (".dvc/cache", ("16k", "400k", "2m")),
    "the state folder": ("../state", ("100k", "900k", "3m")),
    "the checkpoints": ("checkpoints", ("64k", "1m", "3m")),
    "the worktrees": (".runs", ("1m", "12m", "16m")),
}


def a_full_disk(lab: Lab, rng: random.Random) -> Try:
    """A folder is on a disk that fills up; then there is room."""
    job, what = lab.back(), rng.choice(list(PLACES))
    place, sizes = PLACES[what]
    size = rng.choice(sizes)
    done = Try(FAMILY, "a full disk", f"{what} on {size}")
    with small_disk((job.clone / place).resolve(), size) as remount:
        ended = job.pipeline()
        remount("size=1g")
        refused_then_healed(lab, job, ended, done)
        job.kill_all()
    return done


def a_read_only_disk(lab: Lab, rng: random.Random) -> Try:
    """A folder is on a disk that takes no writes; then it does."""
    job, what = lab.back(), rng.choice(list(PLACES))
    done = Try(FAMILY, "a read-only disk", what)
    with small_disk((job.clone / PLACES[what][0]).resolve(), "1g") as remount:
        remount("ro")
        ended = job.pipeline()
        remount("rw")
        refused_then_healed(lab, job, ended, done)
        job.kill_all()
    return done


def a_shallow_clone(lab: Lab, rng: random.Random) -> Try:
    """`git clone --depth 1`."""
    job = lab.back()
    origin = job.clone.with_name("origin")
    job.clone.rename(origin)
    words = ["git", "clone", "-q", "--depth", "1", f"file://{origin}", str(job.clone)]
    subprocess.run(words, check=True)
    (job.clone / ".venv").symlink_to(sys.prefix)
    done = Try(FAMILY, "a shallow clone", "depth 1")
    healed(lab, job, job.pipeline(), done)
    return done


def a_detached_head(lab: Lab, rng: random.Random) -> Try:
    """No branch is checked out."""
    job = lab.back()
    job.git("checkout", "-q", "--detach")
    done = Try(FAMILY, "a detached HEAD", "")
    healed(lab, job, job.pipeline(), done)
    return done


def a_tarball(lab: Lab, rng: random.Random) -> Try:
    """The project's files without .git: a run needs a worktree, and says so."""
    job = lab.back()
    shutil.rmtree(job.clone / ".git")
    done = Try(FAMILY, "a tarball without .git", "")
    ended = job.pipeline()
    done.said, done.outcome = ended.line, "refused"
    if not ended.clear:
        done.fault(f"no clear line: {ended.said[-800:]}")
    if left := [what for what, _ in job.processes().values()]:
        done.fault(f"processes left: {left}")
    return done


def a_killed_repro(lab: Lab, rng: random.Random) -> Try:
    """DVC itself is killed in `dvc repro`, and started again."""
    job, stage = lab.back(), rng.choice(STAGES)
    process = job.start("dvc", "repro", log=job.state.parent / "life.log")
    while process.poll() is None and stage not in stages_of(job):
        time.sleep(0.05)
    time.sleep(rng.random() * lab.usual[stage])
    killed = job.kill()
    process.wait()
    done = Try(FAMILY, "everything killed in `dvc repro`", f"{stage}: {len(killed)} processes")
    ended = job.run("dvc", "repro")
    done.said = ended.line
    if ended.code:
        done.fault(f"dvc repro failed: {ended.said[-800:]}")
    done.fault(*job.faults(lab.expected))
    return done


SCENARIOS: tuple[Callable[[Lab, random.Random], Try], ...] = (
    a_flipped_bit_in_the_cache,
    a_truncated_model,
    a_torn_checkpoint,
    a_lock_file_in_conflict,
    a_clock_that_moved_back,
    two_runs_in_one_checkout,
    two_clones_on_one_cache,
    a_full_disk,
    a_read_only_disk,
    a_shallow_clone,
    a_detached_head,
    a_tarball,
    a_killed_repro,
)


def scenarios_that_can_run() -> list[Callable[[Lab, random.Random], Try]]:
    """All of them for root; others may not mount a small disk."""
    needs_root = (a_full_disk, a_read_only_disk)
    return [scenario for scenario in SCENARIOS if os.geteuid() == 0 or scenario not in needs_root]
