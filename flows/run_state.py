"""How far a run came and how it ended: a record in its worktree, from which every page of the run says so.

The outputs in a worktree are those of the stages that ended in it (`Dvc` in flows/dvc_process.py), so a page
in there is true of this run alone. What is not there is named by this record, and not looked for elsewhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json

PATH = Path(".dvc/tmp/run.json")  # in the worktree; neither git nor DVC takes it into the experiment


@dataclass
class RunState:
    """How far a run came.

    Attributes:
        name: the run's name in Prefect, DVC and MLflow.
        began, finished: seconds since 1970; `finished` is None while it runs and for a killed run.
        state: `complete` when every stage of dvc.yaml ended, `partial` when it was to end earlier,
            `killed` when its process was gone without having written a state, which the next run notices.
        stages: every stage of dvc.yaml, in the order in which they run.
        ended: the stages that ended well in this run.
        failed: the stage that failed.
        said: the line with which the run failed.
        commit: the commit of its DVC experiment; a run that is neither complete nor partial has none.
    """

    name: str
    began: float
    finished: float | None = None
    state: Literal["running", "complete", "partial", "failed", "cancelled", "killed"] = "running"
    stages: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    failed: str | None = None
    said: str | None = None
    commit: str | None = None

    @property
    def whole(self) -> bool:
        """Whether every stage of dvc.yaml ended."""
        return set(self.ended) == set(self.stages)

    def save(self, tree: Path) -> None:
        """Write the record into a run's worktree."""
        write_json(tree / PATH, asdict(self))

    def __str__(self) -> str:
        """The state in a line, with the stages that have no result."""
        if self.state == "complete":
            return f"complete: all {len(self.stages)} stages"
        text = str(self.state)
        if self.state == "partial":
            text += f": ended {f'after {self.ended[-1]}' if self.ended else 'early'}, as it was asked to"
        elif self.failed:
            text += f" in {self.failed}"
        missing = [name for name in self.stages if name not in self.ended]
        return f"{text}; without results: {', '.join(missing)}" if missing else text


def read_state(tree: Path) -> RunState | None:
    """The record of the run whose worktree this is; None where there is none."""
    try:
        return RunState(**read_json(tree / PATH))
    except (DataError, ValueError, TypeError):
        return None


def pages(tree: Path) -> dict[str, dict[str, Path]]:
    """The pages in a run's worktree: what they show -> their names and their paths in the worktree."""
    every: dict[str, dict[str, Path]] = {"report": {"report.html": Path("reports/report.html")}}
    for what, folder in {"Data Docs": "prepared", "Data Docs of the comparisons": "comparisons"}.items():
        docs = Path("reports/validation", folder)
        tables = {
            path.stem.removeprefix("parquet-"): path.relative_to(tree)
            for path in sorted(tree.glob(f"{docs}/validations/*/*/*/*.html"))
        }
        every[what] = {"index": docs / "index.html", **tables}
    return {
        what: {name: path for name, path in names.items() if (tree / path).exists()}
        for what, names in every.items()
    }
