"""The loop that never ends: new labels -> reward model -> PPO -> gate -> @champion -> new outputs to label.

    python -m flows.loop                # one round, if enough new labels have come
    python -m flows.loop --simulate     # three rounds with simulated labelers, then the table

A round puts the labels that no round has used into a new version of the label store and runs the pipeline on
all labels up to that version. Labels that come meanwhile wait for the next round. The new champion is served
without a restart, and its outputs go to the labelers next. A round that is killed goes on when this is run
again.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from prefect import State, flow, get_run_logger
from prefect.events import emit_event
from prefect.states import Completed, Failed
from pydantic import Field

from flows.form import FormSettings
from flows.machine import clear_dead
from flows.params import complete, parse_changes, plan, with_data
from flows.pipeline import DEFAULTS, rlhf
from flows.refill import find_queue, queue_of_round, refill
from flows.services.prefect import prefect_api
from flows.simulated_labelers import labeling_app, work
from flows.upfront import refuse
from labeling.address import store_address
from labeling.exports import cut, new_labels, newest_version, rows_hash, tables
from labeling.store import Store
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.measures.display import rate_text
from rlhf.settings import Settings, SettingsError
from rlhf.world.labelers import pool
from tasks.ingest import load
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.locks import alone
from tasks.runtime.places import state_dir
from tasks.runtime.tracking import EXPERIMENT, FINAL, connect

WHO = "flow feedback"
ENOUGH = "labels.enough"  # the event
MIN_NEW_LABELS = 300
PROMPTS = 300
SIMULATED = "simulated"  # project of `--simulate`
# Of its first round, and how many times as many each later one has: after some 300 labels more of them change
# nothing that can be told from noise, so three rounds end there.
FEW_PROMPTS, TIMES = 50, 1.75
# Its parameters: with few labels PPO needs more updates to get somewhere, and may lose by them, so experts
# keep its best look; and the first policies lose to the most careful writers more often than the gate allows.
OF_SIMULATED = {
    "ppo.updates": 24,
    "ppo.value_warmup": 1,
    "ppo.judge": "simulated",
    "register.min_slice_rate": 0.1,
}


@flow(name="feedback", persist_result=False)
def feedback(
    settings: FormSettings = DEFAULTS,
    min_new_labels: Annotated[int, Field(ge=1)] = MIN_NEW_LABELS,
    prompts: Annotated[int, Field(ge=0)] = PROMPTS,
    data: str | None = None,
) -> State:
    """Run one round if enough new labels have come, and give the labelers outputs of the champion.

    Args:
        settings: Parameters of the run; collect.labels.project names the labels.
        min_new_labels: A round begins when so many labels have come since the last one.
        prompts: Prompts whose outputs go to the labelers for the next round; 0 for none.
        data: File or folder that the stage ingest reads, where ingest.source is not builtin.
    """
    try:
        whole = complete(settings, None)
    except SettingsError as error:
        return Failed(message=str(error))
    project = whole.collect.labels.project
    connect()
    store = Store(store_address(state_dir()))
    try:
        refuse(with_data(settings, data, "the parameters"), round_to_come=True)
        with alone(f"feedback-{quote(project, safe='')}", _say_busy):
            clear_dead()
            if prompts:
                ask(store, whole, prompts, data)
            version = next_version(store, project, min_new_labels)
            if version is None:
                said = f"{waiting(store, project)} of {min_new_labels} new labels in project {project!r}"
                return Completed(name="Waiting", message=said)
            whole = on_labels(store, whole, version)
            named = rlhf.with_options(flow_run_name=f"{project}-labels-{version}")
            state = named(whole, data, return_state=True)
            if not state.is_completed():
                return Failed(message=f"version {version} of the labels: {state.message}")
            if prompts:
                ask(store, whole, prompts, data, Path(str(state.result())))
            [*_, last] = rounds(store, project)
            return Completed(name="Promoted" if last.promoted else "Not promoted", message=str(last))
    except (DataError, SettingsError, StageError) as error:
        return Failed(message=str(error))
    finally:
        store.close()


@flow(name="watch-labels", persist_result=False)
def watch_labels(
    project: str = DEFAULTS.collect.labels.project,
    min_new_labels: Annotated[int, Field(ge=1)] = MIN_NEW_LABELS,
) -> State:
    """Emit the event `labels.enough` when enough new labels have come.

    Args:
        project: Project of the label store.
        min_new_labels: How many are enough.
    """
    connect()
    store = Store(store_address(state_dir()))
    try:
        number = waiting(store, project)
    except DataError as error:
        return Failed(message=str(error))
    finally:
        store.close()
    if number >= min_new_labels:
        resource = {
            "prefect.resource.id": f"labels.{quote(project, safe='')}",
            "prefect.resource.name": project,
        }
        emit_event(event=ENOUGH, resource=resource, payload={"new_labels": number})
    return Completed(message=f"{number} of {min_new_labels} new labels in project {project!r}")


def _say_busy() -> None:
    get_run_logger().info("another round of this project is at work; waiting for its end")


def ask(
    store: Store, settings: Settings, prompts: int, data: str | None = None, folder: Path | None = None
) -> None:
    """Fill the queue of the coming round, unless it is there.

    Args:
        store: the label store.
        settings: every parameter.
        prompts: how many prompts.
        data: what the stage ingest reads.
        folder: where the stages up to `sft` ran; None runs them.

    Raises:
        StageError: a stage failed.
    """
    number = trained(settings.collect.labels.project) + 1
    if find_queue(store, settings.collect.labels.project, number) is not None:
        return
    if folder is None:
        named = rlhf.with_options(flow_run_name=f"{settings.collect.labels.project}-sft")
        folder = Path(str(ended(named(settings, data, None, "sft", return_state=True)).result()))
    made = refill(store, settings, folder, number, prompts)
    said = f"{made} new items to rank in queue {queue_of_round(number)!r}"
    none = "nothing new to rank: labelers were asked about every prompt, or no outputs of a prompt differ"
    get_run_logger().info(said if made else none)


def next_version(store: Store, project: str, min_new_labels: int) -> int | None:
    """The version of the labels that the round to run now uses; None while there are too few new ones.

    A version whose run was killed comes first, as it was: labels that came since stay out. After a run that
    failed they come in, and once there are enough in all, the next version is tried.

    Raises:
        DataError: there is no such project.
    """
    *_, (version, status) = [(0, ""), *attempts(project)]
    if status in ("RUNNING", "KILLED") and version > trained(project):
        return version
    if waiting(store, project) < min_new_labels:
        return None
    with store.write() as tx:
        return cut(tx, project, WHO) or newest_version(tx, project)


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
    return [(int(run.data.tags["labels_version"]), run.info.status) for run in _runs(project)]


def _runs(project: str) -> list[Any]:
    import mlflow

    found = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string="tags.labels_version LIKE '%'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    return [run for run in found if run.data.tags.get("labels_project") == project]


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
    """What a round brought.

    Attributes:
        version: of the labels.
        new, labels: how many labels came with it, and all up to it.
        policy: (rate, low, high) of its PPO policy, preferred to the reference.
        promoted: whether the gate let it through.
        champion: the same figures of the policy that was champion after it; None before the first.
        model_version: of the policy in the registry.
        n: judged prompts.
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
        return f"{self.labels} labels, {self.new} of them new: preferred {shown(self.policy)}; {became}"


def rounds(store: Store, project: str) -> list[Round]:
    """The rounds that ended, in their order, as MLflow has them."""
    ended = {int(r.data.tags["labels_version"]): r for r in _runs(project) if r.info.status == "FINISHED"}
    found: list[Round] = []
    champion, before = None, 0
    for version, run in sorted(ended.items()):
        figures = {name.removeprefix(FINAL): value for name, value in run.data.metrics.items()}
        policy = (figures["ppo/rate"], figures["ppo/low"], figures["ppo/high"])
        promoted = bool(figures["promoted"])
        champion = policy if promoted else champion
        with store.read() as tx:
            labels = new_labels(tx, project, 0) - new_labels(tx, project, version)
        number, n, name = int(figures["model_version"]), int(figures["n"]), run.info.run_name
        found.append(Round(version, labels - before, labels, policy, promoted, champion, number, n, name))
        before = labels
    return found


def shown(figures: tuple[float, float, float] | None) -> str:
    """A rate with its interval."""
    return (
        "none yet" if figures is None else rate_text(dict(zip(("rate", "low", "high"), figures, strict=True)))
    )


def show_rounds(found: list[Round], settings: Settings, labelers: str) -> None:
    """Print the table of the rounds, and who gave the labels."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    judge, percent = settings.evaluate.gate_judge, settings.evaluate.confidence * 100
    title = f"Preferred to the reference, {percent:g} % intervals, judge {judge}"
    columns = ("round", "labels", "new", "its policy", "champion after it", "n")
    table = Table(*columns, box=box.SIMPLE_HEAD, title=title, caption=f"labels: {labelers}")
    for number, one in enumerate(found, start=1):
        cells = (number, one.labels, one.new, shown(one.policy), shown(one.champion), one.n)
        table.add_row(*map(str, cells))
    Console(highlight=False, soft_wrap=True).print(table)


@flow(name="simulated-labels", persist_result=False)
def simulated_labels(settings: Settings, url: str, prompts: int) -> State:
    """Fill the queue of the coming round and have simulated labelers answer all of it in the labeling app.

    Args:
        settings: Every parameter; collect.groups has the shares of the labelers' groups.
        url: Of the labeling app.
        prompts: How many prompts they are asked about.
    """
    project, store = settings.collect.labels.project, Store(store_address(state_dir()))
    try:
        connect()
        clear_dead()
        ask(store, settings, prompts)
        queue = find_queue(store, project, trained(project) + 1)
        if queue is None:
            raise DataError("labelers were asked about every prompt; raise ingest.train_posts")
        facts = {row["prompt"]: json.loads(row["facts"]) for row in load(settings.ingest, settings.seed).gold}
        if not facts:
            raise DataError(f"simulated labelers know the built-in task only, not {settings.ingest.source}")
        given = work(store, url, queue, pool(settings.collect.groups), facts, settings.seed)
        return Completed(message=f"{given} labels")
    except (DataError, SettingsError, StageError) as error:
        return Failed(message=str(error))
    finally:
        store.close()


def simulate(settings: Settings, number: int, prompts: int) -> None:
    """Rounds with simulated labelers until so many have ended, those of earlier calls included.

    Args:
        settings: every parameter.
        number: of rounds.
        prompts: that labelers are asked about in the first round; each later one has `TIMES` as many.

    Raises:
        StageError: a round failed.
    """
    project, store = settings.collect.labels.project, Store(store_address(state_dir()))
    with labeling_app(settings.register_.model_name) as url:
        while (done := len(rounds(store, project))) < number:
            print(f"round {done + 1} of {number}", flush=True)
            labeled = ended(simulated_labels(settings, url, round(prompts * TIMES**done), return_state=True))
            print(f"round {done + 1}: {labeled.message}", flush=True)
            trained_on = ended(feedback(settings, 1, 0, return_state=True))
            print(f"round {done + 1}: {trained_on.message}", flush=True)
    store.close()


def ended(state: State) -> State:
    """A flow's final state, if it is one of success.

    Raises:
        StageError: it is not.
    """
    if not state.is_completed():
        raise StageError(state.message or f"the flow ended {state.name}")
    return state


def main(words: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line when a round fails or the input is bad."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Labels come from the labeling app (make label, make up). With `make up` running, switch on "
        "the schedule of the deployment watch-labels/labels in Prefect: it starts a round when enough came.",
    )
    parser.add_argument(
        "--project", metavar="NAME", help="project of the label store (collect.labels.project)"
    )
    parser.add_argument(
        "--min-new-labels",
        metavar="N",
        type=int,
        default=MIN_NEW_LABELS,
        help=f"a round begins when so many labels have come since the last one (default {MIN_NEW_LABELS})",
    )
    parser.add_argument(
        "--prompts",
        metavar="N",
        type=int,
        help="prompts whose outputs go to the labelers for the next round; 0 for none "
        f"(default {PROMPTS}); with --simulate for the first round, each later one has {TIMES} times as many "
        f"(default {FEW_PROMPTS})",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="a recipe, by the name of its folder in recipes/ or the path of a params file",
    )
    parser.add_argument("--data", metavar="PATH", help="file or folder with the data that the run reads")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change a parameter; may be repeated"
    )
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="the built-in task, with simulated labelers who sign in to the labeling app; in a project "
        f"{SIMULATED!r} and a registered model of their own unless --project names another, and with "
        + ", ".join(f"{key}={value}" for key, value in OF_SIMULATED.items()),
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="of --simulate (default 3)")
    parser.add_argument(
        "--table", metavar="FILE", type=Path, help="also write the table of the rounds, as JSON"
    )
    given = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: terminated; run it again to go on"))
    with one_line_errors():
        if given.prompts is None:
            given.prompts = FEW_PROMPTS if given.simulate else PROMPTS
        if min(given.rounds, given.min_new_labels, given.prompts + (not given.simulate)) < 1:
            raise SettingsError("--rounds, --min-new-labels and, with --simulate, --prompts are at least 1")
        changes = parse_changes(given.set)
        if given.simulate:
            project = given.project or SIMULATED
            own = {"collect.labels.project": project, "register.model_name": f"rlhf-{project}"}
            changes = OF_SIMULATED | own | changes
        elif given.project:
            changes["collect.labels.project"] = given.project
        settings = plan(given.recipe, given.data, changes)
        refuse(settings, round_to_come=True)
        with prefect_api():
            connect()
            try:
                if given.simulate:
                    simulate(settings, given.rounds, given.prompts)
                else:
                    state = ended(feedback(settings, given.min_new_labels, given.prompts, return_state=True))
                    print(f"{state.name}: {state.message}")
            except KeyboardInterrupt:
                sys.exit("error: interrupted; run it again to go on")
            store = Store(store_address(state_dir()))
            found = rounds(store, settings.collect.labels.project)
            store.close()
        project = f"project {settings.collect.labels.project!r}"
        show_rounds(found, settings, f"simulated labelers, {project}" if given.simulate else project)
        if given.table:
            write_json(given.table, [asdict(one) for one in found])


if __name__ == "__main__":
    main()
