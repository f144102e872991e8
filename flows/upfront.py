"""What ends a run at once: parameters that contradict each other, and files that they name but nobody has.

`refuse` is asked before a server starts and again when a flow begins; nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.contracts import TABLES
from rlhf.data.errors import DataError
from rlhf.data.formats.parts import parts
from rlhf.data.judgments import read_judgments
from rlhf.settings import Settings, SettingsError
from tasks.graph import stages
from tasks.ingest import HUMAN, file_sources, load
from tasks.judging import NO_JUDGMENTS
from tasks.prepare import prepare
from tasks.rules.catalogue import refuse_unknown
from tasks.runtime.errors import StageError
from tasks.runtime.feasibility import (
    by_form,
    conversations_too_long,
    counts_of,
    gate_warning,
    problems_of_data,
    too_long,
    without_cue,
)
from tasks.runtime.places import state_dir
from tasks.runtime.preflight import cautions, contradictions, refuse_missing_config

MOST_BYTES = 64 * 2**20  # of data that is read before the run starts; more waits for the stage `validate`


def refuse(settings: Settings, last: str | None = None, round_to_come: bool = False) -> list[str]:
    """Refuse a run that its parameters doom, however its trainings go.

    Args:
        settings: every parameter.
        last: the last stage that is to run; None runs all of them.
        round_to_come: whether the run will learn from a version of the labels that nobody has cut yet.

    Returns:
        lines that a person should see before the run starts.

    Raises:
        SettingsError: parameters that contradict each other or the data.
        DataError: labels, judgments or a model that are not there.
        StageError: no stage `last`.
    """
    needed = stages_up_to(last)
    refuse_unknown(settings.validate_.rules, settings.validate_.thresholds)
    if round_to_come:
        labels = settings.collect.labels.model_copy(update={"version": 1})
        collect = settings.collect.model_copy(update={"labelers": "store", "labels": labels})
        settings = settings.model_copy(update={"collect": collect})
    tables = rows_to_come(settings)
    doomed = doom(settings, tables, needed)
    if doomed:
        more = f" (and {len(doomed) - 1} more; `make doctor` lists them)" if len(doomed) > 1 else ""
        raise SettingsError(doomed[0] + more)
    if not round_to_come:
        _refuse_labels(settings, needed)
    _refuse_missing(settings, needed)
    lines = cautions(settings) if "evaluate" in needed else []
    if "register" not in needed:
        return lines
    warning = None
    if tables:
        held_out = len({row["prompt"] for row in tables["demonstrations"] if row["split"] == "test"})
        warning = gate_warning(settings, held_out)
    elif settings.ingest.source == "builtin" and not settings.prepare.test_share:
        warning = gate_warning(settings, settings.ingest.test_posts)
    return [*lines, warning] if warning else lines


def doom(
    settings: Settings, tables: Mapping[str, Sequence[dict[str, Any]]] | None, needed: set[str]
) -> list[str]:
    """What dooms a run, however its trainings go: a line each that says how to mend it.

    Args:
        settings: every parameter.
        tables: the user's rows, see `rows_to_come`.
        needed: the stages that are to run.
    """
    problems = contradictions(settings)
    if tables:
        # A word is at least one token; the stage `validate` counts tokens exactly.
        texts, talks = by_form(settings, tables)
        prompts, context = [row["prompt"] for row in texts], settings.base.context
        for problem in (
            without_cue(settings, tables["demonstrations"]),
            too_long(settings, prompts, context, lambda: [len(p.split()) for p in prompts]),
            conversations_too_long(settings, talks, context, lambda: [_words(row) for row in talks]),
        ):
            problems += [problem] if problem else []
        problems += problems_of_data(settings, counts_of(tables))
    return [problem.text for problem in problems if problem.stage in needed]


def _refuse_labels(settings: Settings, needed: set[str]) -> None:
    """Refuse a version of the labels that is not there or teaches nothing."""
    labels = settings.collect.labels
    # A version that is not set is a contradiction of the parameters, refused as such.
    if "collect" in needed and settings.collect.labelers == "store" and labels.version is not None:
        from labeling.address import store_address
        from labeling.rankings import stored_rankings  # here, because it loads a database

        stored_rankings(store_address(state_dir()), labels.project, labels.version, labels.sha256)


def _refuse_missing(settings: Settings, needed: set[str]) -> None:
    """Refuse parameters that name a file or a model that is not there."""
    for stage in ("sft", "reward", "ppo"):
        config = getattr(settings, stage).accelerate
        if stage in needed and config and settings.processes > 1:
            refuse_missing_config(stage, config)
    judgments = read_judgments(HUMAN)
    if "evaluate" in needed and "human" in settings.evaluate.judges and not judgments:
        raise DataError(NO_JUDGMENTS)


def rows_to_come(settings: Settings) -> Mapping[str, Sequence[dict[str, Any]]] | None:
    """The user's rows as `prepare` will make them; None for the built-in task, for data that cannot be read
    (the stage `ingest` says why), and for more data than `MOST_BYTES`."""
    ingest = settings.ingest
    on_the_hub = ingest.revision or any(source.revision for source in ingest.sources)
    if ingest.source == "builtin" or on_the_hub:
        return None
    try:
        told = [part for source in file_sources(ingest) for part in parts(source.path)]
        if sum(file.stat().st_size for part in told for file in part.files) > MOST_BYTES:
            return None
        raw = load(ingest, settings.seed).tables
    except DataError:
        return None
    whole = {
        name: [{column: row.get(column) for column in contract.schema.names} for row in raw[name]]
        for name, contract in TABLES.items()
    }
    return prepare(whole, settings.prepare, settings.seed)


def _words(row: dict[str, Any]) -> tuple[int, int]:
    """The words of a conversation and of its completion."""
    return (
        sum(len(turn["content"].split()) for turn in row["messages"]),
        len((row.get("completion") or "").split()),
    )


def stages_up_to(last: str | None) -> set[str]:
    """The names of a stage of dvc.yaml and of all that it depends on; all stages for None.

    Raises:
        StageError: no such stage.
    """
    graph = stages()
    if last is None:
        return set(graph)
    if last not in graph:
        raise StageError(f"until {last}: no such stage; there are {', '.join(sorted(graph))}")
    needed, waiting = set(), [last]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        read = [Path(path) for path in graph[name].get("deps", [])]
        waiting += [
            other
            for other in graph
            if other not in needed
            and any(
                path == made or path in made.parents or made in path.parents
                for made in _outputs(graph[other])
                for path in read
            )
        ]
    return needed


def _outputs(stage: dict[str, Any]) -> list[Path]:
    """The paths that a stage writes."""
    entries = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return [Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]
