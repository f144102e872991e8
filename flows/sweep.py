"""The figure: how often each policy is preferred to the reference, by model size, over several seeds.

    python -m flows.sweep                                     # four sizes, three seeds (make figure)
    python -m flows.sweep --sizes 0.1M 0.3M --seeds 17 --set base.steps=300

Every cell, a size and a seed, is a run of the flow `rlhf` up to its evaluation, in a worktree of its own,
and ends as a DVC experiment and an MLflow run named after it; nothing enters the registry. A cell whose
experiment is there, made by the same code with the same parameters, is not run again: a sweep that was cut
off goes on where it was.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.checkout import refuse_checkout
from flows.machine import end_when_told, recorded
from flows.params import add_recipe, parse_changes, plan
from flows.services.prefect import prefect_api
from flows.workspace import RUNS, experiments, snapshot
from rlhf.data.errors import DataError
from rlhf.data.files import write_json, written_beside
from rlhf.measures.display import LABELS, number
from rlhf.models.scratch import SIZES
from rlhf.report.by_size import as_png, ladder, markdown_table, shape, size_chart
from rlhf.report.drawing import svg_text
from rlhf.report.templates import inline_svg, page_template
from rlhf.settings import SettingsError
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.places import state_dir, state_folder
from tasks.runtime.tracking import connect

# What a run's numbers depend on, besides parameters.
CODE = ("rlhf", "tasks", "labeling/contracts.py", "labeling/quality", "labeling/rankings.py", "dvc.yaml")
# With some seeds the three-layer sizes 0.3M and 0.5M learn to copy too late for this few steps (dev/LOG.md).
SIZES_OF_THE_FIGURE = ("0.1M", "0.15M", "0.2M", "1M")
SEEDS = (17, 18, 19)
# Trained as long as the main job, twelve models take hours. With these parameters they take an hour on two
# cores, and every size gets the same data and the same number of steps. After 350 steps the smallest base
# model is too weak for its reward model, and PPO makes it worse.
SHORT: dict[str, Any] = {
    "base.steps": 450,
    "sft.epochs": 1,
    "collect.prompts": 600,
    "ppo.updates": 9,
    "ppo.value_warmup": 1,
    "ppo.best_of_n": 1,
    "ppo.judge": "simulated",
    "evaluate.prompts": 500,
}
FOLDER = Path("reports/sizes")
NAME = "preference-by-size"


@dataclass(frozen=True)
class Cell:
    """A run of the pipeline; its name holds size and seed, and a hash of the parameters and the code."""

    name: str
    size: str
    seed: int
    changes: dict[str, Any]
    recipe: str | None


def cells_of(sizes: list[str], seeds: list[int], changes: dict[str, Any], recipe: str | None) -> list[Cell]:
    """The cells of a sweep, seed by seed; the largest models first, so that no long run is left for the end.

    Raises:
        SettingsError: a size or a parameter that does not exist.
    """
    if unknown := [size for size in sizes if size not in SIZES]:
        raise SettingsError(f"--sizes {unknown[0]}: no such size; there are {', '.join(SIZES)}")
    tree = snapshot()
    code = subprocess.run(["git", "ls-tree", "-r", tree, "--", *CODE], capture_output=True, check=True).stdout
    cells = []
    for seed in seeds:
        for size in sorted(sizes, key=list(SIZES).index, reverse=True):
            own = changes | {"base.scale": size, "seed": seed}
            parameters = plan(recipe, None, own).model_dump_json(by_alias=True)
            digest = hashlib.sha256(code + parameters.encode()).hexdigest()[:8]
            cells.append(Cell(f"size-{size.replace('.', '_')}-seed-{seed}-{digest}", size, seed, own, recipe))
    return cells


@flow(name="sweep", persist_result=False)
def sweep(
    sizes: list[str] = list(SIZES_OF_THE_FIGURE),  # noqa: B006
    seeds: list[int] = list(SEEDS),  # noqa: B006
    changes: dict[str, Any] = SHORT,
    recipe: str | None = None,
    jobs: int = 2,
) -> str | State:
    """Run the pipeline for every size and seed, several at once, and draw the figure.

    Args:
        sizes: Rungs of the size ladder.
        seeds: Everything is trained once for each of them.
        changes: Other parameters, by dotted key.
        recipe: A recipe instead of params.yaml.
        jobs: Runs at once; each has params.yaml's threads divided by this.

    Returns:
        The folder with the figure.
    """
    log = get_run_logger()
    try:
        with recorded():
            connect()
            threads = max(1, plan(recipe, None, changes).threads // jobs)
            cells = cells_of(sizes, seeds, changes | {"threads": threads}, recipe)
            log.info(f"{len(cells)} runs, {jobs} at once, {threads} thread{'s' * (threads > 1)} each")
            states = [run_cell.with_options(task_run_name=cell.name).submit(cell) for cell in cells]
            try:
                ended = [future.wait() or future.state for future in states]
            except BaseException:  # terminated: the flow ends only after the threads that wait for the runs
                _stop()
                raise
            failed = [cell.name for cell, state in zip(cells, ended, strict=True) if not state.is_completed()]
            if failed:
                raise StageError(
                    f"{len(failed)} of {len(cells)} runs failed: {failed[0]}; its log: {log_of(failed[0])}. "
                    "Run the sweep again: what is done is kept"
                )
            draw(cells)
    except (DataError, SettingsError, StageError) as error:
        return Failed(message=str(error))
    return str(FOLDER)


@task(persist_result=False)
def run_cell(cell: Cell) -> State:
    """One run of the flow `rlhf`, in a process of its own; skipped where its experiment is there."""
    log = get_run_logger()
    if cell.name in experiments():
        return Completed(name="Up to date", message=rates(cell))
    with get_client(sync_client=True) as client:
        server = str(client.api_url)
    command = [sys.executable, "-m", "flows.run", "--aside", "--until", "evaluate", "--name", cell.name]
    command += ["--recipe", cell.recipe] if cell.recipe else []
    for key, value in cell.changes.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    started = time.monotonic()
    log.info(f"{cell.size} seed {cell.seed}: started; its log: {log_of(cell.name)}")
    state_folder("sweep")
    shutil.rmtree(RUNS / cell.name, ignore_errors=True)  # a run that was cut off has left it, under this name
    with log_of(cell.name).open("w") as output:
        done = _run(command, output, {**os.environ, "PREFECT_API_URL": server})
    if done != 0:
        lines = log_of(cell.name).read_text(errors="replace").strip().splitlines() or [f"exit code {done}"]
        return Failed(message=lines[-1])
    log.info(f"{cell.size} seed {cell.seed}: {rates(cell)}, {(time.monotonic() - started) / 60:.1f} min")
    return Completed(message=rates(cell))


def draw(cells: list[Cell], folder: Path = FOLDER) -> dict[str, Any]:
    """Write the figure (SVG, PNG), its data (JSON) and its page (HTML); log them to MLflow and Prefect."""
    import mlflow

    judged = {cell.name: evaluation(cell) for cell in cells}
    first = judged[cells[0].name]
    rows = ladder(
        [(c.size, c.seed, figures(c, "metrics/base.json")["parameters"], judged[c.name]) for c in cells],
        first["confidence"],
    )
    judge = first["judge"]["name"]
    kept = {k: v for k, v in cells[0].changes.items() if k not in ("base.scale", "seed", "threads")}
    changes = [f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in kept.items()]
    options = [f"--recipe {cells[0].recipe}"] * bool(cells[0].recipe) + changes * (kept != SHORT)
    sizes = " ".join(dict.fromkeys(row["size"] for row in rows))
    seeds = " ".join(map(str, rows[0]["seeds"]))
    command = " ".join(["python -m flows.sweep", f"--sizes {sizes}", f"--seeds {seeds}", *options])
    data = {
        "command": command,
        "judge": first["judge"],
        "confidence": first["confidence"],
        "rows": rows,
        "shape": shape(rows),
        "runs": {cell.name: experiments()[cell.name] for cell in cells},
        "parameters": cells[0].changes,
    }
    figure = size_chart(rows, judge, first["confidence"])
    svg = svg_text(figure)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {
        f"{NAME}.svg": svg.encode(),
        f"{NAME}.png": as_png(figure),
        "index.html": page(data, svg).encode(),
    }.items():
        with written_beside(folder / name) as beside:
            beside.write_bytes(content)
    write_json(folder / f"{NAME}.json", data)
    create_markdown_artifact(key="preference-by-size", markdown=markdown_table(rows), description="By size")
    with mlflow.start_run(run_name=NAME, tags={"stage": "sweep"}):
        mlflow.log_artifacts(str(folder))
    return data


def page(data: dict[str, Any], svg: str) -> str:
    """The figure's page, self-contained."""
    description = "Preferred to the reference by model size; the table below holds its numbers"
    return page_template("flows", "sweep.html.j2").render(
        figure=inline_svg(svg, NAME, description),
        judge=data["judge"]["name"],
        names=[name for name in LABELS if name in data["rows"][0]["policies"]],
        labels=LABELS,
        rows=data["rows"],
        shape=data["shape"],
        command=data["command"],
        runs=data["runs"],
    )


def figures(cell: Cell, path: str) -> dict[str, Any]:
    """A metrics file of a cell's experiment, from git or DVC's cache."""
    import dvc.api

    return json.loads(dvc.api.read(path, rev=experiments()[cell.name]))


def evaluation(cell: Cell) -> dict[str, Any]:
    """The evaluation of a cell's run."""
    return figures(cell, "metrics/evaluation.json")


def rates(cell: Cell) -> str:
    """The cell's rates in one line."""
    policies = evaluation(cell)["policies"]
    return ", ".join(
        f"{LABELS[name]} {number(policies[name]['rate'])}" for name in LABELS if name in policies
    )


def log_of(name: str) -> Path:
    """The file with what the run of a cell printed."""
    return state_dir() / "sweep" / f"{name}.log"


_running: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()
_lock = threading.Lock()


def _run(command: list[str], output: Any, env: dict[str, str]) -> int:
    with _lock:
        if _stopped.is_set():
            return 1
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        _running.add(process)
    try:
        return process.wait()
    finally:
        _running.discard(process)


def _stop() -> None:
    """End the runs that are at work and let no other begin; each run ends what it started."""
    with _lock:
        _stopped.set()
    for process in list(_running):
        process.terminate()
    for process in list(_running):
        process.wait()


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line when a run fails or the input is bad."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Unless --set is given, these differ from params.yaml: {SHORT}. `--set` replaces them all.",
    )
    parser.add_argument(
        "--sizes", nargs="+", default=list(SIZES_OF_THE_FIGURE), metavar="SIZE", help=f"of {', '.join(SIZES)}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="SEED")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", help="a parameter; may be repeated")
    add_recipe(parser)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (2); they share params' threads")
    options = parser.parse_args(arguments)
    end_when_told("error: terminated; the next sweep keeps what is done")
    with one_line_errors():
        refuse_checkout()
        if options.jobs < 1:
            raise SettingsError(f"--jobs {options.jobs}: at least one")
        changes = SHORT if options.set is None else parse_changes(options.set)
        cells_of(options.sizes, options.seeds, changes, options.recipe)  # bad input ends here
        with prefect_api():
            runner: Any = ThreadPoolTaskRunner(max_workers=options.jobs)
            chosen = sweep.with_options(task_runner=runner)
            try:
                state = chosen(
                    options.sizes, options.seeds, changes, options.recipe, options.jobs, return_state=True
                )
            except KeyboardInterrupt:
                sys.exit("error: interrupted; the next sweep keeps what is done")
            finally:
                _stop()
        if not state.is_completed():
            raise StageError(state.message or f"the sweep ended {state.name}")
        data = json.loads((FOLDER / f"{NAME}.json").read_text())
        print(markdown_table(data["rows"]))
        for claim, holds in data["shape"].items():
            print(f"  {'yes' if holds else 'NO '}  {claim}")
        print(f"figure: {FOLDER / f'{NAME}.png'}\npage:   {FOLDER / 'index.html'}")


if __name__ == "__main__":
    main()
