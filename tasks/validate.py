"""Check what may enter with Great Expectations: `python -m tasks.validate prepared|comparisons`.

`prepared` checks data/prepared before any training, `comparisons` the collected data/comparisons, by the
rules of `tasks.rules`. Writes Data Docs to reports/validation/<what>/index.html and what was found to
metrics/findings.json or metrics/findings-comparisons.json, whether rows pass or not, and other metrics when
they do. What differs from the last version of the data set is in the Data Docs and in runs/.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.contracts import TABLES
from rlhf.data.files import write_json
from rlhf.data.plural import plural
from rlhf.data.table import read_table
from rlhf.settings import Settings
from tasks.fitting import has_template, reach, squeezed, suspects
from tasks.rules.catalogue import refuse_unknown, rules_of
from tasks.rules.checking import Finding, compute
from tasks.rules.drift import NAMES as DRIFT
from tasks.rules.drift import profile_of
from tasks.rules.expectations import decide
from tasks.rules.groups import groups_of
from tasks.rules.labels import preferences
from tasks.rules.quarantine import findings_of
from tasks.rules.rule import Asked
from tasks.rules.view import View, numpy, views
from tasks.runtime.errors import StageError
from tasks.runtime.feasibility import (
    Counts,
    by_form,
    conversations_too_long,
    gate_warning,
    problems_of_data,
    too_long,
    turn_counts,
    without_cue,
)
from tasks.runtime.preflight import WITHOUT_DEMONSTRATIONS, Problem
from tasks.runtime.stage import Stage, run

FINDINGS = {"prepared": "metrics/findings.json", "comparisons": "metrics/findings-comparisons.json"}
STAGES = {"prepared": "validate", "comparisons": "validate-comparisons"}


def main(stage: Stage) -> dict[str, float]:
    """Check the tables of the stage; returns rows, rules and warnings of each.

    Raises:
        StageError: a rule is broken, in a line that names dataset, rule, rows and an example; or the rows
            pass and cannot do what the parameters ask.
    """
    what = next(what for what, name in STAGES.items() if name == stage.name)
    metrics = Path("metrics") / f"{stage.name.replace('validate', 'validation')}.json"
    metrics.unlink(missing_ok=True)  # An earlier verdict must not outlive a failure.
    settings = stage.settings
    refuse_unknown(settings.validate_.rules, settings.validate_.thresholds)
    tables = views_of(what)
    asked = asks(settings, tables, what)
    names = list(tables) if what == "prepared" else ["comparisons"]
    docs = Path("reports/validation") / what
    last = stage.compare_profiles({name: profile_of(tables[name]) for name in names})
    for name, before in last[1].items() if last else ():
        if name in names:
            tables[name].last = before
    findings, rules = check({name: tables[name] for name in names}, asked, docs)
    aside = findings_of(Path("data/prepared")) if what == "prepared" else []
    told = [finding.as_dict() for finding in [*findings, *aside]]
    # What differs from the last version depends on what ran before, so no other stage may depend on it.
    write_json(FINDINGS[what], [finding for finding in told if finding["rule"] not in DRIFT])
    stage.record["drift"] = [finding for finding in told if finding["rule"] in DRIFT]
    stage.record["compared_with"] = last[0] if last else None
    if told:
        stage.log_samples(told, "findings")
    refuse([finding for finding in findings if finding.severity != "warn"], docs)
    cut = refuse_infeasible(settings, tables, collected=what == "comparisons")
    for finding in [*aside, *findings]:
        print(f"warning: {finding.line()}")
    write_json(metrics, {name: {"rows": tables[name].size, "failed": 0} for name in names})
    figures: dict[str, float] = {"prompts_cut": cut} if cut else {}
    for name in names:
        warned = [finding for finding in findings if finding.table == name]
        but = f", but for {plural(len(warned), 'warning')}" if warned else ""
        print(f"{name}: {plural(tables[name].size, 'row', 'meet')} all {rules[name]} rules{but}")
        figures |= {f"{name}/rows": tables[name].size, f"{name}/rules": rules[name]}
        figures[f"{name}/warnings"] = len(warned)
        figures |= {f"{name}/{finding.rule}": finding.rows for finding in warned if finding.rows is not None}
    print(f"Data Docs: {docs}/index.html")
    return figures


def views_of(what: str) -> dict[str, View]:
    """The tables that a stage checks, and those that it checks them beside."""
    tables = {
        name: read_table(f"data/prepared/{name}.parquet", TABLES[name])
        for name in ("demonstrations", "comparisons", "votes", "prompts", "corpus")
    }
    if what == "comparisons":
        tables["comparisons"] = read_table("data/comparisons/comparisons.parquet", TABLES["comparisons"])
    return views(tables, partial(groups_of, Path("data/prepared")))


def asks(settings: Settings, tables: Mapping[str, View], what: str) -> Asked:
    """What the parameters say of the rules for these tables."""
    collect, votes = settings.collect, tables["votes"].size
    comparisons = tables["comparisons"].size
    if what == "prepared":
        # An empty table passes every rule, so that what is checked does not change with the labelers.
        listed = collect.labelers == "simulated" or not comparisons
        required = ["comparisons"] if collect.labelers == "given" and not votes else ["prompts"]
    else:
        listed, required = collect.labelers == "simulated", [] if votes else ["comparisons"]
    return Asked(
        prepare=settings.prepare,
        severities=settings.validate_.rules,
        thresholds=settings.validate_.thresholds,
        groups=set(collect.groups) if listed else None,
        required=required,
    )


def check(tables: Mapping[str, View], asked: Asked, docs: Path) -> tuple[list[Finding], dict[str, int]]:
    """Check tables by their rules and write the Data Docs.

    Returns:
        what was found, and table -> how many rules it was asked.
    """
    checked = [compute(view, rules_of(name, asked), asked) for name, view in tables.items()]
    return decide(checked, asked, docs), {table.view.name: len(table.rules) for table in checked}


def refuse(broken: Sequence[Finding], docs: Path) -> None:
    """Refuse rows that break a rule.

    Raises:
        StageError: the first breach, and how many more there are.
    """
    if broken:
        more = f" (and {len(broken) - 1} more rules are broken)" if len(broken) > 1 else ""
        raise StageError(f"{broken[0].line()}{more}; see {docs}/index.html")


def refuse_infeasible(settings: Settings, tables: Mapping[str, View], collected: bool) -> int:
    """Refuse data that the parameters cannot use, and say where the gate can let nothing through.

    Returns:
        how many prompts lose their start beside their answer, as `ppo.max_prompt_length` allows.

    Raises:
        StageError: with what is wrong and how to mend it.
    """
    counts = counts_of_views(tables)
    problems = problems_of_data(settings, counts, collected)
    if not any(counts.demonstrations.values()):
        problems = [problem for problem in problems if problem.text != WITHOUT_DEMONSTRATIONS]
        if not collected:
            print(f"warning: {WITHOUT_DEMONSTRATIONS}")
    cut = 0
    if not collected:
        too_long, cut = _of_lengths(settings, tables)
        problems += too_long
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StageError(f"{problems[0].text}{more}")
    demonstrations = tables["demonstrations"]
    test = numpy(pc.equal(demonstrations.column("split"), "test"))
    held_out = len(np.unique(demonstrations.prompts[test]))
    warning = gate_warning(settings, held_out) if held_out and not collected else None
    if warning:
        print(f"warning: {warning}")
    if cut:
        print(
            f"warning: {plural(cut, 'row')} with a plain prompt that loses its start beside its answer in "
            "training, since ppo.max_prompt_length allows that"
        )
    return cut


def counts_of_views(tables: Mapping[str, View]) -> Counts:
    """How many rows each split has."""
    splits = {
        name: {entry["values"]: entry["counts"] for entry in counted.to_pylist()}
        for name in ("demonstrations", "comparisons", "votes")
        if (counted := pc.value_counts(tables[name].column("split"))) is not None
    }
    comparisons = tables["comparisons"]
    preferring = pa.array(np.unique(preferences(comparisons).row), pa.int64())
    rankings = pc.value_counts(comparisons.column("split").take(preferring)).to_pylist()
    votes = tables["votes"]
    up = pc.value_counts(votes.column("split").filter(pc.fill_null(votes.column("label"), False))).to_pylist()
    return Counts(
        splits["demonstrations"],
        splits["comparisons"],
        {entry["values"]: entry["counts"] for entry in rankings},
        splits["votes"],
        {entry["values"]: entry["counts"] for entry in up},
        len(comparisons.column("labeler_id").unique()),
    )


def _of_lengths(settings: Settings, tables: Mapping[str, View]) -> tuple[list[Problem], int]:
    """What the context of the base cannot hold, and conversations that it would read as plain text; and how
    many prompts lose their start beside their answer, as the parameters allow."""
    context, template = reach(settings.base, Path("data/prepared"))
    turns = sum(
        int((~batch.plain).sum())
        for name in ("prompts", "demonstrations")
        for batch in tables[name].batches(["messages"])
    )
    in_turns = not turns or has_template(template())
    long = {name: list(suspects(tables[name], settings, context)) for name in ("prompts", "demonstrations")}
    texts, talks = by_form(settings, long, in_turns)
    every = len(np.unique(tables["prompts"].prompts))
    problems = (
        without_cue(settings, _talks(tables["demonstrations"]), in_turns),
        too_long(
            settings,
            [row["prompt"] for row in texts],
            context,
            lambda: [len(ids) for ids in template().prompts(texts)],
            every,
        ),
        conversations_too_long(settings, talks, context, lambda: turn_counts(template(), talks), turns),
    )
    answers = squeezed(settings, tables, Path("data/prepared"))
    return [*filter(None, problems), *answers.problems(context)], answers.agreed


def _talks(view: View) -> Iterator[dict[str, Any]]:
    """The conversations of a table, a row at a time."""
    for batch in view.batches():
        for number in np.flatnonzero(~batch.plain):
            yield batch.row(int(number))


if __name__ == "__main__":
    run("validate", main, STAGES)
