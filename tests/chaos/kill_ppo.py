"""Kill a PPO run again and again, and hold what it ends with against a run that was never killed.

    python tests/chaos/kill_ppo.py --kills 20

A small run (adaptive KL, a checkpoint every update, the last two kept) is killed by SIGKILL at random moments
while it samples, optimises and writes checkpoints, and started again, until it ends. Every file of its last
checkpoint must have the bytes of the run never killed, and no life may repeat more than one save interval.
Exit code 1 if not.

A moment is a number of function calls in a phase, which is the same on every machine, and the process kills
itself there: a plan in seconds would hit other moments, or none, wherever the run is faster or slower.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]

from tiny_ppo import trainer_of, words_tokenizer  # noqa: E402

from rlhf.training.loop import train  # noqa: E402

STEPS_PER_UPDATE, SAVE_UPDATES = 4, 1
SETTINGS = {
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "save_updates": SAVE_UPDATES,
    "save_total_limit": 2,
    "kl_target": 0.5,
    "kl_horizon": 100,
}
PHASES = ("sampling", "optimising", "writing")
PARTS = {
    "networks.safetensors": "policy and value network",
    "optimizer.pt": "optimiser",
    "scheduler.pt": "learning-rate scheduler",
    "ppo.json": "KL coefficient",
    "rng_state.pth": "random states",
    "trainer_state.json": "step and curve",
}


def live(folder: str, updates: int, pipe: Any, blow: Blow | None) -> None:
    """One life of the run, in a process of its own, up to the blow.

    Says through `pipe` what it is at: (phase, steps done, calls in the phase that has just ended).
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    trainer = trainer_of(words_tokenizer(), Path(folder), num_updates=updates, **SETTINGS)
    meter = Meter(pipe, blow)

    def announced(name: str, phase: str, after: str) -> None:
        method = getattr(trainer, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            step = trainer.state.global_step
            if name != "training_step" or step % STEPS_PER_UPDATE:  # an update's first step samples first
                meter.enter(phase, step)
            result = method(*args, **kwargs)
            meter.enter(after, step)
            return result

        setattr(trainer, name, call)

    announced("roll_out", "sampling", "optimising")
    announced("training_step", "optimising", "optimising")  # the optimiser moves the weights after it
    announced("_save_checkpoint", "writing", "between")
    train(trainer)
    meter.enter("ended", trainer.state.global_step)


@dataclass(frozen=True)
class Blow:
    """When to kill: in the first phase of this kind from this update on, after so many function calls."""

    phase: str
    update: int
    calls: int


class Meter:
    """Counts the function calls of the phase that this process is in, and kills it where the blow says."""

    def __init__(self, pipe: Any, blow: Blow | None) -> None:
        self.pipe, self.blow = pipe, blow
        self.phase, self.step, self.calls = "between", 0, 0

    def enter(self, phase: str, step: int) -> None:
        """Go over to a phase at a step; the same phase goes on counting."""
        sys.setprofile(None)
        if (phase, step) != (self.phase, self.step):
            if self._due():  # a phase with fewer calls than the blow waits for is killed at its end
                os.kill(os.getpid(), signal.SIGKILL)
            self.pipe.send((phase, step, self.calls))
            self.phase, self.step, self.calls = phase, step, 0
        sys.setprofile(self._count)

    def _due(self) -> bool:
        blow = self.blow
        return bool(blow and self.phase == blow.phase and self.step >= blow.update * STEPS_PER_UPDATE)

    def _count(self, *_: Any) -> None:
        self.calls += 1
        if self.blow and self.calls > self.blow.calls and self._due():
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Life:
    """What became of one process.

    Attributes:
        reports: (phase, steps done, calls in the phase before) at every change of phase or step.
        exitcode: as `multiprocessing` gives it: minus the signal for a killed process.
        torn: a half-written checkpoint was left.
    """

    reports: list[tuple[str, int, int]]
    exitcode: int
    torn: bool

    @property
    def first(self) -> int:
        """The step it began with; the last one where nothing was left to do."""
        return self.reports[0][1]

    @property
    def last(self) -> int:
        """The last step it began."""
        return max(step for phase, step, _ in self.reports if phase in ("sampling", "optimising"))


def run(context: Any, folder: Path, updates: int, blow: Blow | None = None) -> Life:
    """Run one life, to its end or to the blow."""
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=live, args=(str(folder), updates, its, blow))
    process.start()
    its.close()
    reports: list[tuple[str, int, int]] = []
    while True:
        try:
            reports.append(mine.recv())
        except EOFError:
            break
    process.join()
    return Life(reports, process.exitcode, (folder / ".writing").exists())


def calls_in(life: Life) -> dict[str, int]:
    """The fewest function calls that a phase took."""
    counts: dict[str, list[int]] = {phase: [] for phase in PHASES}
    for (phase, _, _), (_, _, calls) in zip(life.reports, life.reports[1:], strict=False):
        if phase in counts:
            counts[phase].append(calls)
    return {phase: min(values) for phase, values in counts.items()}


def blows(kills: int, updates: int, seed: int, calls: dict[str, int]) -> list[Blow]:
    """Moments spread over the run and over its phases.

    A blow while a checkpoint is written may leave a whole one, and with it one update fewer; up to three
    blows an update leave each of them something to hit.

    Raises:
        ValueError: more blows than that.
    """
    if kills > 3 * (updates - 1):
        raise ValueError(f"{kills} kills need {-(-kills // 3) + 1} updates")
    rng = random.Random(seed)
    return [
        Blow(phase, i * (updates - 1) // kills, rng.randrange(calls[phase]))
        for i, phase in ((i, PHASES[i % len(PHASES)]) for i in range(kills))
    ]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of the last checkpoint."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return {
        f"{last.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(last.iterdir())
    }


def kill_again_and_again(
    context: Any, folder: Path, updates: int, plan: list[Blow]
) -> tuple[list[Life], list[str]]:
    """A run in `folder` with a life a blow and one to end it; and what is wrong with them."""
    lives, faults = [], []
    for blow in [*plan, None]:
        life = run(context, folder, updates, blow)
        n = len(lives) + 1
        if life.exitcode != (-signal.SIGKILL if blow else 0):
            faults.append(f"life {n} ended with exit code {life.exitcode}: {n - 1} kills hit")
            break
        if lives:
            if life.first > lives[-1].last + 1:
                faults.append(
                    f"life {n} began with step {life.first}, the one before got to {lives[-1].last}"
                )
            if repeated(lives[-1], life) > SAVE_UPDATES * STEPS_PER_UPDATE:
                faults.append(f"life {n} repeated {repeated(lives[-1], life)} steps")
        lives.append(life)
    return lives, faults


def repeated(before: Life, after: Life) -> int:
    """Steps that a life began again."""
    return max(0, before.last - after.first + 1)


def differences(whole: dict[str, str], killed: dict[str, str]) -> list[str]:
    """Files that are not the same, or not there."""
    missing = [name for name in PARTS if not any(file.endswith(f"/{name}") for file in whole)]
    return missing + sorted(
        {name for name in whole.keys() | killed.keys() if whole.get(name) != killed.get(name)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how often to kill the run (%(default)s)")
    parser.add_argument("--updates", type=int, default=12, help="length of the run (%(default)s updates)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args()
    if not 1 <= args.kills <= 3 * (args.updates - 1):
        parser.error("--kills must be 1 to three times one less than --updates")
    context = multiprocessing.get_context("spawn")  # every life is an interpreter of its own
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = run(context, folder / "whole", args.updates)
        if whole.exitcode:
            sys.exit("error: the run that nobody kills failed; its own error stands above")
        plan = blows(args.kills, args.updates, args.seed, calls_in(whole))
        lives, faults = kill_again_and_again(context, folder / "killed", args.updates, plan)
        print(f"{'kill':>4}  {'in':10}  {'at call':>8}  {'at step':>7}  {'torn':4}  {'goes on':>7}  repeats")
        for i, (blow, life, after) in enumerate(zip(plan, lives, lives[1:], strict=False), 1):
            phase, step, _ = life.reports[-1]
            torn = "yes" if life.torn else ""
            print(
                f"{i:4}  {phase:10}  {blow.calls:8}  {step:7}  {torn:4}  {after.first:7}  "
                f"{repeated(life, after):7}"
            )
        expected, actual = hashes(folder / "whole"), hashes(folder / "killed")
        different = differences(expected, actual)
        print(f"\nSHA-256 of each file of the last checkpoint: never killed, killed {len(lives) - 1} times")
        for file, digest in expected.items():
            part = PARTS.get(Path(file).name, "")
            same = "same" if actual.get(file) == digest else "DIFFERENT"
            print(f"{file:38}  {part:25}  {digest[:16]}  {actual.get(file, '')[:16]:16}  {same}")
    for fault in [*faults, *(f"{file} differs" for file in different)]:
        print(f"error: {fault}", file=sys.stderr)
    sys.exit(bool(faults or different))


if __name__ == "__main__":
    main()
