"""Where the long form of the chaos tests works: a job that ran undisturbed, brought back before each try."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conftest import PATIENCE, free_port
from job import STAGES, Ended, Job

from flows.services.catalogue import answers

PHASES = ("start", *STAGES, "end")
POLL_SECONDS = 0.1
FOLDER = "two words, Übung 試験"  # every scenario runs in a path with spaces and letters that are not ASCII


@dataclass
class Try:
    """What one try did and how it ended.

    Attributes:
        family, scenario: what was done.
        detail: the moment, the target, the parameters.
        outcome: `healed` (the job ended with the bytes of an undisturbed run), `refused` (one clear line,
            nothing registered) or `FAULT`.
        said: the line with which the disturbed command ended.
        lost: what was lost, wrong or left behind; empty unless the outcome is a fault.
        seconds: how long the try took.
    """

    family: str
    scenario: str
    detail: str
    outcome: str = "healed"
    said: str = ""
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def fault(self, *what: str) -> None:
        """Note what is wrong."""
        if what:
            self.outcome = "FAULT"
            self.lost += what

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Lab:
    """A job that ran undisturbed, and copies of its folder before and after, to go back to.

    Attributes:
        job: the job that is disturbed; always in the same folder, because databases hold its paths.
        expected: path of every output -> hash, of the undisturbed run.
        usual: phase -> seconds, of the undisturbed run.
    """

    def __init__(self, root: Path, server: bool) -> None:
        self.root, self.folder = root, root / FOLDER
        self.job = Job(self.folder)
        self.job.set_up()
        self.server = self._serve() if server else None
        self._keep("fresh")
        self.usual, ended = timed(self.job)
        if ended.code:
            raise SystemExit(f"error: the undisturbed run failed:\n{ended.said[-3000:]}")
        self.expected = self.job.hashes()
        if faults := self.job.faults(self.expected):
            raise SystemExit(f"error: the undisturbed run is not whole: {'; '.join(faults)}")
        self._keep("done")

    def back(self, to: str = "fresh") -> Job:
        """The job as it was before its undisturbed run (`fresh`) or after it (`done`)."""
        self.job.kill_all()
        shutil.rmtree(self.folder)
        shutil.copytree(self.root / to, self.folder, symlinks=True)
        return self.job

    def end(self) -> None:
        """End all that is left of the job, and the server."""
        self.job.kill_all()
        if self.server:
            self.server.kill()
            self.server.wait()

    def _serve(self) -> subprocess.Popen[bytes]:
        """A Prefect server for all runs, as `make up` has one, in place of one for each run. It is no part of
        the job: nothing kills it, and its database stays when the job goes back."""
        home, port = self.root / "prefect", free_port()
        self.job.prefect.rename(home)
        self.job.prefect = home
        command = ["flows.services.guarded", "prefect", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.job.clone,
            env=self.job.env | {"PREFECT_HOME": str(home), "RLHF_STATE": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + PATIENCE
        while not answers(f"http://127.0.0.1:{port}/api/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit("error: the Prefect server does not answer")
            time.sleep(0.5)
        self.job.env["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        return server

    def _keep(self, name: str) -> None:
        shutil.copytree(self.folder, self.root / name, symlinks=True)


@contextmanager
def lab(folder: Path | None = None, server: bool = False) -> Iterator[Lab]:
    """A lab in a temporary folder, whose processes end with the block.

    Args:
        server: one Prefect server for all runs, in place of a temporary one for each.
    """
    root = Path(tempfile.mkdtemp(prefix="chaos-", dir=folder))
    made = None
    try:
        made = Lab(root, server)
        yield made
    finally:
        if made:
            made.end()
        shutil.rmtree(root, ignore_errors=True)


def timed(job: Job) -> tuple[dict[str, float], Ended]:
    """Run the job undisturbed; how many seconds it was in each phase, and how it ended."""
    log = job.state.parent / "undisturbed.log"
    process, phase, since = job.start("flows.run", log=log), "start", time.monotonic()
    usual = dict.fromkeys(PHASES, 0.0)
    while process.poll() is None:
        at_work = stages_of(job)
        now = at_work[0] if at_work else "end" if phase in ("register", "end") else phase
        if now != phase:
            usual[phase] += time.monotonic() - since
            phase, since = now, time.monotonic()
        time.sleep(POLL_SECONDS)
    usual[phase] += time.monotonic() - since
    return usual, Ended(process.returncode, log.read_text())


def stages_of(job: Job) -> list[str]:
    """The stages that are at work."""
    running = {what for what, _ in job.processes().values()}
    return [stage for stage in STAGES if stage in running]
