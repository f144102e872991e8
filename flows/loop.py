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
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from prefect import State, flow, get_run_logger
from prefect.events import emit_event
from prefect.states import Completed, Failed
from pydantic import Field

from flows.checkout import refuse_checkout
from flows.form import FormSettings
from flows.machine import clear_dead, end_when_told, recorded
from flows.params import add_options, complete, parse_changes, plan, with_files
from flows.pipeline import DEFAULTS, rlhf
from flows.refill import find_queue, queue_of_round, refill
from flows.rounds import next_version, on_labels, rounds, show_rounds, trained, waiting
from flows.services.prefect import prefect_api
from flows.simulated_labelers import labeling_app, work
from flows.upfront import refuse
from labeling.address import store_address
from labeling.store import Store
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.settings import Settings, SettingsError
from rlhf.world.labelers import pool
from tasks.ingest import load
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.locks import alone
from tasks.runtime.places import state_dir
from tasks.runtime.tracking import connect

ENOUGH = "labels.enough"  # the event that starts a round
MIN_NEW_LABELS = 300
PROMPTS = 300
SIMULATED = "simulated"  # project of `--simulate`
# How many prompts its first round has, and the factor by which each later round has more. Beyond about 300
# labels, more of them change nothing that stands out from noise, so three rounds end there.
FEW_PROMPTS, TIMES = 50, 1.75
# Its parameters: with few labels PPO needs more updates to improve and may get worse by them, so experts
# choose among its evaluation snapshots; and the first policies lose to the most careful writers more often
# than the gate allows.
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
        min_new_labels: A round begins when this many labels have come since the last one.
        prompts: Prompts whose outputs go to the labelers for the next round; 0 for none.
        data: File or folder that the stage ingest reads, where ingest.source is not builtin.
    """
    try:
        whole = complete(settings, None)
        connect()
    except (DataError, SettingsError) as error:
        return Failed(message=str(error))
    project = whole.collect.labels.project
    store = Store(store_address(state_dir()))
    try:
        refuse(with_files(whole, data, "the parameters"), round_to_come=True)
        with (
            recorded(),
            alone(f"feedback-{quote(project, safe='')}", _say_busy),
        ):
            clear_dead()
            if prompts:
                ask(store, whole, prompts, data)
            version = next_version(store, project, min_new_labels)
            if version is None:
                count = f"{waiting(store, project)} of {min_new_labels} new labels in project {project!r}"
                return Completed(name="Waiting", message=count)
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
        min_new_labels: How many new labels are enough.
    """
    store = Store(store_address(state_dir()))
    try:
        connect()
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
    """Fill the queue of the coming round with outputs to rank, unless it has been filled.

    Args:
        store: the label store.
        settings: every parameter.
        prompts: the number of prompts.
        data: the file or folder that the stage ingest reads.
        folder: where the stages up to `sft` ran; None runs them first.

    Raises:
        StageError: a stage failed.
    """
    number = trained(settings.collect.labels.project) + 1
    if find_queue(store, settings.collect.labels.project, number) is not None:
        return
    if folder is None:
        named = rlhf.with_options(flow_run_name=f"{settings.collect.labels.project}-sft")
        folder = Path(str(ended(named(settings, data, None, "sft", return_state=True)).result()))
    if added := refill(store, settings, folder, number, prompts):
        text = f"{added} new items to rank in queue {queue_of_round(number)!r}"
    else:
        text = "nothing new to rank: labelers were asked about every prompt, or no outputs of a prompt differ"
    get_run_logger().info(text)


@flow(name="simulated-labels", persist_result=False)
def simulated_labels(settings: Settings, url: str, prompts: int) -> State:
    """Fill the queue of the coming round and have simulated labelers answer all of it in the labeling app.

    Args:
        settings: Every parameter; collect.groups has the shares of the labelers' groups.
        url: The address of the labeling app.
        prompts: The number of prompts that they are asked about.
    """
    project, store = settings.collect.labels.project, Store(store_address(state_dir()))
    try:
        with recorded():
            connect()
            clear_dead()
            ask(store, settings, prompts)
            queue = find_queue(store, project, trained(project) + 1)
            if queue is None:
                raise DataError("labelers were asked about every prompt; raise ingest.train_posts")
            facts = {
                row["prompt"]: json.loads(row["facts"]) for row in load(settings.ingest, settings.seed).gold
            }
            if not facts:
                raise DataError(
                    f"simulated labelers know the built-in task only, not {settings.ingest.source}"
                )
            answered = work(store, url, queue, pool(settings.collect.groups), facts, settings.seed)
            return Completed(message=f"{answered} labels")
    except (DataError, SettingsError, StageError) as error:
        return Failed(message=str(error))
    finally:
        store.close()


def simulate(settings: Settings, number: int, prompts: int) -> None:
    """Run rounds with simulated labelers until `number` have ended, those of earlier calls included.

    Args:
        settings: every parameter.
        number: the number of rounds.
        prompts: prompts of the first round; each later round has `TIMES` as many.

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
    """The final state of a flow that succeeded.

    Raises:
        StageError: it did not succeed.
    """
    if not state.is_completed():
        raise StageError(state.message or f"the flow ended {state.name}")
    return state


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line when a round fails or the input is bad."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Labels come from the labeling app (make label, make up). With `make up` running, switch on "
        "the schedule of the deployment watch-labels in Prefect: it starts a round when enough have come.",
    )
    parser.add_argument(
        "--project", metavar="NAME", help="project of the label store (collect.labels.project)"
    )
    parser.add_argument(
        "--min-new-labels",
        metavar="N",
        type=int,
        default=MIN_NEW_LABELS,
        help=f"a round begins when this many labels have come since the last one (default {MIN_NEW_LABELS})",
    )
    parser.add_argument(
        "--prompts",
        metavar="N",
        type=int,
        help="prompts whose outputs go to the labelers for the next round; 0 for none "
        f"(default {PROMPTS}); with --simulate for the first round, each later one has {TIMES} times as many "
        f"(default {FEW_PROMPTS})",
    )
    add_options(parser)
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="the built-in task, with simulated labelers who sign in to the labeling app; in a project "
        f"{SIMULATED!r} and a registered model of their own unless --project names another, and with "
        + ", ".join(f"{key}={value}" for key, value in OF_SIMULATED.items()),
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="rounds of --simulate (default 3)")
    parser.add_argument(
        "--table", metavar="FILE", type=Path, help="also write the table of the rounds, as JSON"
    )
    options = parser.parse_args(arguments)
    end_when_told("error: terminated; run it again to go on")
    with one_line_errors():
        refuse_checkout()
        if options.prompts is None:
            options.prompts = FEW_PROMPTS if options.simulate else PROMPTS
        if min(options.rounds, options.min_new_labels, options.prompts + (not options.simulate)) < 1:
            raise SettingsError("--rounds, --min-new-labels and, with --simulate, --prompts are at least 1")
        changes = parse_changes(options.set)
        if options.simulate:
            project = options.project or SIMULATED
            own = {"collect.labels.project": project, "register.model_name": f"rlhf-{project}"}
            changes = OF_SIMULATED | own | changes
        elif options.project:
            changes["collect.labels.project"] = options.project
        settings = plan(options.recipe, options.data, changes)
        refuse(settings, round_to_come=True)
        with prefect_api():
            connect()
            try:
                if options.simulate:
                    simulate(settings, options.rounds, options.prompts)
                else:
                    state = ended(
                        feedback(settings, options.min_new_labels, options.prompts, return_state=True)
                    )
                    print(f"{state.name}: {state.message}")
            except KeyboardInterrupt:
                sys.exit("error: interrupted; run it again to go on")
            store = Store(store_address(state_dir()))
            ended_rounds = rounds(store, settings.collect.labels.project)
            store.close()
        project = f"project {settings.collect.labels.project!r}"
        show_rounds(ended_rounds, settings, f"simulated labelers, {project}" if options.simulate else project)
        if options.table:
            write_json(options.table, [asdict(each) for each in ended_rounds])


if __name__ == "__main__":
    main()
