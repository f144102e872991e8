"""SIGKILL at random moments over the whole main job, and `make run` again until it ends.

A cycle begins with an empty checkout. Each life of it is killed in a phase of its own: while the command
starts, in one of the stages, or while the experiment is saved. The moment within the phase and what is
killed are drawn: the stage's process, the one of DVC, the flow's command, or everything at once. The next
life begins at once. The last one is left alone, and must end with the bytes of a run that nobody touched.
"""

from __future__ import annotations

import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from job import STAGES, Ended, Job, events
from lab import PHASES, POLL_SECONDS, Lab, Try, stages_of

from flows.run_state import read_state

FAMILY = "kill"
TARGETS = ("stage", "dvc", "flow", "everything")


@dataclass(frozen=True)
class Blow:
    """When and what to kill: in this phase, after this share of its usual time."""

    phase: str
    share: float
    target: str


def cycles(kills: int, seed: int, each: int = 4) -> list[list[Blow]]:
    """Blows in cycles of up to `each`; over all of them, every phase and every target come equally often."""
    rng = random.Random(seed)
    phases = [phase for _ in range(-(-kills // len(PHASES))) for phase in rng.sample(PHASES, len(PHASES))]
    targets = [target for _ in range(-(-kills // len(TARGETS))) for target in rng.sample(TARGETS, 4)]
    blows = [
        Blow(phase, rng.random(), target)
        for phase, target in zip(phases[:kills], targets[:kills], strict=True)
    ]
    parts = [blows[first : first + each] for first in range(0, kills, each)]
    return [sorted(part, key=lambda blow: PHASES.index(blow.phase)) for part in parts]


def cycle(lab: Lab, blows: list[Blow]) -> list[Try]:
    """Kill one job as often as there are blows; a try for each of them that hit."""
    job, tries = lab.back(), []
    kept: dict[str, int] = {}
    trained: set[str] = set()
    for blow in blows:
        started, before = time.monotonic(), trees(job)
        at, killed, ended = life(job, blow, lab.usual)
        if killed is None:  # the phase was over before: the run ended
            break
        done = Try(FAMILY, f"SIGKILL to {', '.join(sorted(set(killed)))}", at, said=ended.line)
        if blow.target in ("stage", "dvc") and "flow" not in killed and ended.code == 0:
            done.fault(f"the command ended well although {killed} was killed")
        elif "flow" not in killed and not ended.clear:
            done.fault(f"no clear line: {ended.said[-500:]}")
        done.fault(*repeated(trees(job) - before, kept, trained))
        kept, trained = job.checkpoints(), ended_stages(job)
        done.seconds = time.monotonic() - started
        tries.append(done)
    started, before = time.monotonic(), trees(job)
    last = job.pipeline()
    faults = [] if last.code == 0 else [f"the last life failed: {last.said[-800:]}"]
    faults += repeated(trees(job) - before, kept, trained) + job.faults(lab.expected)
    for done in tries:
        done.fault(*faults)
        done.seconds = round(done.seconds + (time.monotonic() - started) / len(tries), 1)
    return tries


def life(job: Job, blow: Blow, usual: dict[str, float]) -> tuple[str, list[str] | None, Ended]:
    """Start the job and kill it as the blow says.

    Returns:
        where it was hit; what was killed, None where the job ended before; and how the command ended.
    """
    log = job.state.parent / "life.log"
    process = job.start("flows.run", log=log)
    killed: list[str] | None = None
    at = ""
    if reached(job, process, blow.phase):
        time.sleep(blow.share * usual[blow.phase])
        at_work = stages_of(job)
        targets = {"stage": at_work, "dvc": ["dvc"], "flow": ["flow"], "everything": []}[blow.target]
        killed = job.kill(*targets) if targets or blow.target == "everything" else []
        killed = killed or job.kill("flow") or None  # there is no such process at this moment
        at = f"{at_work[0] if at_work else f'no stage, wanted {blow.phase}'}, {blow.share:.0%} of the phase"
    if killed and "flow" in killed:
        process.wait()
    else:
        try:
            process.wait(600)
        except subprocess.TimeoutExpired:
            job.kill("flow")
            process.wait()
    return at, killed, Ended(process.returncode, log.read_text())


def reached(job: Job, process: subprocess.Popen[str], phase: str) -> bool:
    """Wait until the job is in this phase, or in a later one; False where it ended before."""
    seen = phase == "start"
    while not seen:
        if process.poll() is not None:
            return False
        at_work = stages_of(job)
        if phase == "end":
            if "register" in at_work:
                while "register" in stages_of(job) and process.poll() is None:
                    time.sleep(POLL_SECONDS)
                return process.poll() is None
        else:
            seen = any(STAGES.index(stage) >= STAGES.index(phase) for stage in at_work)
        time.sleep(POLL_SECONDS)
    return process.poll() is None


def trees(job: Job) -> set[Path]:
    """The worktrees of the runs so far."""
    return set((job.clone / ".runs").glob("*"))


def ended_stages(job: Job) -> set[str]:
    """The stages that have ended in any life."""
    return {stage for tree in trees(job) if (state := read_state(tree)) for stage in state.ended}


def repeated(new: set[Path], kept: dict[str, int], trained: set[str]) -> list[str]:
    """What the last life trained again although a checkpoint or a result was there.

    Args:
        new: its worktree; none where it was killed before it had one.
        kept: the newest checkpoint of each training when the life before ended.
        trained: the stages that had ended by then.
    """
    first: dict[str, int] = {}
    for tree in new:
        for event in events(tree):
            first.setdefault(event["stage"], event["step"])
    faults = [f"{stage} was trained again" for stage in sorted(trained & first.keys())]
    for stage, step in first.items():
        before = [newest for training, newest in kept.items() if training.split("/")[0] == stage]
        if before and step < min(before):
            faults.append(f"{stage} began at step {step} where a checkpoint of step {min(before)} was there")
    return faults


def run(lab: Lab, kills: int, seed: int) -> list[Try]:
    """The whole family."""
    return [done for blows in cycles(kills, seed) for done in cycle(lab, blows)]
