"""The rounds of the loop: which have ended, and which labels the next one uses.

Nothing is kept here: the label store has the versions of the labels, MLflow the runs that used them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labeling.contracts import rows_hash, tables
from labeling.store import Store
from labeling.versions import cut_version, new_labels, newest_version
from rlhf.measures.display import rate_text
from rlhf.settings import Settings
from tasks.runtime.tracking import EXPERIMENT, FINAL

WHO = "flow feedback"


def next_version(store: Store, project: str, min_new_labels: int) -> int | None:
    """The version of the labels that the next round uses; None while there are too few new labels.

    A version whose run was killed comes first, unchanged: labels that came since stay out. After a failed run
    they count as new together with its own, and once there are enough of them the next version is tried.

    Raises:
        DataError: there is no such project.
    """
    *_, (version, status) = [(0, ""), *attempts(project)]
    if status in ("RUNNING", "KILLED") and version > trained(project):
        return version
    if waiting(store, project) < min_new_labels:
        return None
    with store.write() as tx:
        return cut_version(tx, project, WHO) or newest_version(tx, project)


def waiting(store: Store, project: str) -> int:
    """How many labels have come since the version that the last finished round used.

    Raises:
        DataError: there is no such project.
    """
    with store.read() as tx:
        return new_labels(tx, project, trained(project))


def trained(project: str) -> int:
    """The newest version of the labels on which a round ended, promoted or not; 0 before the first."""
    return max((version for version, status in attempts(project) if status == "FINISHED"), default=0)


def attempts(project: str) -> list[tuple[int, str]]:
    """Version and MLflow status of every run on the labels of a project, the oldest first."""
    return [(int(run.data.tags["labels_version"]), run.info.status) for run in runs_on_labels(project)]


def runs_on_labels(project: str) -> list[Any]:
    """The MLflow runs on the labels of a project, the oldest first."""
    import mlflow

    runs = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string="tags.labels_version LIKE '%'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    return [run for run in runs if run.data.tags.get("labels_project") == project]


def on_labels(store: Store, settings: Settings, version: int) -> Settings:
    """The parameters with a version of the labels, pinned by the hash of its rankings."""
    labels = settings.collect.labels
    with store.read() as tx:
        pinned = rows_hash(tables(tx, labels.project, version)["comparisons"])
    labels = labels.model_copy(update={"version": version, "sha256": pinned})
    collect = settings.collect.model_copy(update={"labelers": "store", "labels": labels})
    return settings.model_copy(update={"collect": collect})


@dataclass(frozen=True)
class Round:
    """What came of a round.

    Attributes:
        version: the version of the labels that it used.
        new, labels: how many labels came with that version, and how many there are up to it.
        policy: (rate, low, high) at which its PPO policy is preferred to the reference.
        promoted: whether the gate promoted the policy.
        champion: the same figures of the champion after the round; None before the first champion.
        model_version: the policy's version in the registry.
        n: the number of judged prompts.
        run: the run's name in Prefect, DVC and MLflow.
    """

    version: int
    new: int
    labels: int
    policy: tuple[float, float, float]
    promoted: bool
    champion: tuple[float, float, float] | None
    model_version: int
    n: int
    run: str

    def __str__(self) -> str:
        became = f"version {self.model_version} is @champion" if self.promoted else "not promoted"
        return f"{self.labels} labels, {self.new} of them new: preferred {rate_of(self.policy)}; {became}"


def rounds(store: Store, project: str) -> list[Round]:
    """The rounds that ended, by the version of their labels."""
    ended = {
        int(run.data.tags["labels_version"]): run
        for run in runs_on_labels(project)
        if run.info.status == "FINISHED"
    }
    completed: list[Round] = []
    champion, before = None, 0
    for version, run in sorted(ended.items()):
        figures = {name.removeprefix(FINAL): value for name, value in run.data.metrics.items()}
        policy = (figures["ppo/rate"], figures["ppo/low"], figures["ppo/high"])
        promoted = bool(figures["promoted"])
        champion = policy if promoted else champion
        with store.read() as tx:
            labels = new_labels(tx, project, 0) - new_labels(tx, project, version)
        number, n, name = int(figures["model_version"]), int(figures["n"]), run.info.run_name
        completed.append(Round(version, labels - before, labels, policy, promoted, champion, number, n, name))
        before = labels
    return completed


def rate_of(policy: tuple[float, float, float] | None) -> str:
    """The text of a policy's rate with its interval, given as (rate, low, high)."""
    if policy is None:
        return "none yet"
    rate, low, high = policy
    return rate_text({"rate": rate, "low": low, "high": high})


def show_rounds(ended: list[Round], settings: Settings, labelers: str) -> None:
    """Print the table of the rounds that ended, with a line on who gave the labels."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    judge, percent = settings.evaluate.gate_judge, settings.evaluate.confidence * 100
    title = f"Preferred to the reference, {percent:g} % intervals, judge {judge}"
    columns = ("round", "labels", "new", "its policy", "champion after it", "n")
    table = Table(*columns, box=box.SIMPLE_HEAD, title=title, caption=f"labels: {labelers}")
    for number, this in enumerate(ended, start=1):
        cells = (number, this.labels, this.new, rate_of(this.policy), rate_of(this.champion), this.n)
        table.add_row(*map(str, cells))
    Console(highlight=False, soft_wrap=True).print(table)
