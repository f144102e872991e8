"""The command that runs the whole pipeline.

    python -m flows.run                                      # the built-in task
    python -m flows.run --set ppo.kl_coef=0.1                # another parameter
    python -m flows.run --recipe qa-feedback --data FILE     # a recipe
    python -m flows.run --recipe tldr --smoke                # a recipe, tiny and on made-up rows

Every run works in a git worktree of its own, `.runs/<name>`, and ends as a DVC experiment; flow run,
experiment and MLflow run have the same name. The result of a run without a recipe is then put into the
checkout, params.yaml included; `--aside` leaves the checkout as it is.

A stage whose code, parameters and inputs did not change ends at once, and where none has to run there is no
run either, unless it has a name (--name). The registry is asked whether it has the result; where it lost it,
the stage `register` runs again. `dvc repro` does the same work without Prefect and gives the same files.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import os
import sys
from pathlib import Path

from flows.checkout import refuse_checkout
from flows.known_standing import known_standing
from flows.machine import end_when_told
from flows.needs import check_needs
from flows.params import add_options, parse_changes, plan, recipe_file, recipe_name
from flows.run_state import read_state
from flows.services.prefect import prefect_api
from flows.services.processes import running_environment
from flows.smoke import smoke
from flows.verdict import show_verdict
from flows.workspace import bring, snapshot, up_to_date
from rlhf.settings import SettingsError
from tasks.runtime.errors import StageError, one_line_errors


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line when a stage fails or the input is bad."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Parameters: `python -m rlhf.settings` lists them all. To watch a run while it trains, "
        "start the services first: make up",
    )
    add_options(parser)
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="try the recipe whole in about a minute: a tiny model, made-up rows; says nothing about quality",
    )
    parser.add_argument(
        "--name", help="the run's name in all three tools (default: one that Prefect makes up)"
    )
    parser.add_argument("--until", metavar="STAGE", help="the last stage to run (default: all of them)")
    parser.add_argument("--aside", action="store_true", help="leave the checkout as it is")
    options = parser.parse_args(arguments)
    end_when_told("error: terminated; the next run goes on from the last checkpoint")
    with one_line_errors():
        # Bad input ends the command here, before a server starts.
        refuse_checkout()
        recipe = recipe_name(recipe_file(options.recipe)) if options.recipe else None
        changes, data = parse_changes(options.set), options.data
        if options.smoke:
            if recipe is None:
                raise SettingsError("--smoke tries a recipe: add --recipe NAME")
            small = smoke(recipe)
            changes, data = small.changes | changes, data or small.data
        settings = plan(options.recipe, data, changes)
        if recipe and not options.smoke:
            for line in check_needs(recipe, settings):
                print(line)
        wanted = options.name or options.until or options.aside or recipe
        if not wanted and up_to_date(settings) and not lost_from_registry():
            print(
                "nothing to do: code, parameters and data are those of this result (with --name: a run of it)"
            )
            show_verdict(Path.cwd(), _where(None, Path.cwd()))
            return
        from flows.upfront import refuse  # here, since a run with nothing to do needs no code of stages

        refuse(settings, options.until)
        before = snapshot()
        try:
            with prefect_api():
                from flows.pipeline import rlhf  # `prefect_api` has loaded it while the server started

                named = rlhf.with_options(flow_run_name=options.name) if options.name else rlhf
                state = named(settings, None, recipe, options.until, return_state=True)
        except KeyboardInterrupt:
            sys.exit("error: interrupted; the next run goes on from the last checkpoint")
        if not state.is_completed():
            raise StageError(state.message or f"the run ended {state.name}")
        folder = Path(str(state.result()))
        shown = folder
        if not (recipe or options.aside):
            changed = bring(folder, before)
            if changed is None:
                print(f"the checkout has changed meanwhile; `dvc exp apply {folder.name}` brings the result")
            else:
                shown = Path.cwd()
                for line in changed:
                    print(f"params.yaml: {line}")
        reached = read_state(folder)
        if reached and reached.whole:
            show_verdict(shown, _where(folder.name, shown))
        else:
            print(reached)


def lost_from_registry() -> bool:
    """Whether the registry has lost what the checkout's result put there, so a run is needed; prints it."""
    result = known_standing()
    if result and result.lost:
        print(result)
    return bool(result and result.lost)


def _where(name: str | None, folder: Path) -> dict[str, str]:
    """Where a result can be seen: what there is -> its place; `name` is its run's, if that is known."""
    running = running_environment()
    pages = running.get("RLHF_PAGES") if name else None
    tracking = "make mlflow"
    if "MLFLOW_TRACKING_URI" in running:
        from flows.mlflow_views import mlflow_page  # here, since it loads MLflow

        tracking = mlflow_page(running["MLFLOW_TRACKING_URI"])
    in_worktree = "" if folder == Path.cwd() else f" RUN={name}"
    return {
        "report": os.path.relpath(folder / "reports/report.html"),
        **({"experiment": f"dvc exp apply {name}"} if name else {}),
        "Prefect": running.get("PREFECT_API_URL", "make prefect").removesuffix("/api"),
        "MLflow": tracking,
        "Data Docs": f"{pages}/{name}/reports/validation/prepared/index.html"
        if pages
        else f"make docs{in_worktree}",
    }


if __name__ == "__main__":
    main()
