"""Great Expectations decides: an expectation for each rule, over columns that say which rows break it.

It sees no text of a row: for each rule of rows a column of true and false, and for each rule about a number
a table of one row. A million rows are some megabytes then, and Data Docs cannot show what nobody should see.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.expectations.metadata_types import FailureSeverity

from rlhf.data.files import written_beside
from tasks.data_docs import SECTIONS, make_self_contained
from tasks.rules.checking import Checked, Finding, finding_of_figure, finding_of_rows
from tasks.rules.rule import Asked, Rule
from tasks.runtime.errors import StageError

FIGURES = "figures of "  # before the name of a table: the suite of its rules about numbers
_SEVERITY = {
    "stop": FailureSeverity.CRITICAL,
    "quarantine": FailureSeverity.CRITICAL,
    "warn": FailureSeverity.WARNING,
}


def decide(checked: Sequence[Checked], asked: Asked, docs: Path) -> list[Finding]:
    """Let Great Expectations say which rules are broken, and write its Data Docs.

    Args:
        checked: what was computed, a table each.
        asked: what the parameters say of the rules.
        docs: folder of the Data Docs, written beside and then renamed.

    Returns:
        a finding for each broken rule, in the order of tables and rules.
    """
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    findings: list[Finding] = []
    with written_beside(docs) as beside:
        for name in list(context.get_site_names()):
            context.delete_data_docs_site(name)
        context.add_data_docs_site(
            "validation",
            {
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "site_section_builders": SECTIONS,
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(beside.absolute()),
                },
            },
        )
        source = context.data_sources.add_pandas("rules")
        for table in checked:
            broken = _broken_rows(context, source, table, asked) | _broken_figures(
                context, source, table, asked
            )
            findings += [broken[rule.name] for rule in table.rules if rule.name in broken]
        write_docs(context, beside)
    return findings


def write_docs(context: Any, folder: Path) -> None:
    """Write the Data Docs of what was validated."""
    context.build_data_docs()
    make_self_contained(folder)


def _broken_rows(context: Any, source: Any, checked: Checked, asked: Asked) -> dict[str, Finding]:
    rules = [rule for rule in checked.rules if rule.name in checked.masks]
    if not rules:
        return {}
    frame = pd.DataFrame({rule.name: ~checked.masks[rule.name] for rule in rules}, copy=False)
    expectations = [
        gxe.ExpectColumnValuesToBeInSet(column=rule.name, value_set=[True], **_about(rule, checked, asked))
        for rule in rules
    ]
    findings = {}
    for name, details in _run(context, source, checked.view.name, frame, expectations).items():
        rule = next(rule for rule in rules if rule.name == name)
        number = int(np.argmax(checked.masks[name]))  # the first
        findings[name] = finding_of_rows(checked, rule, number, details["unexpected_count"], asked)
    return findings


def _broken_figures(context: Any, source: Any, checked: Checked, asked: Asked) -> dict[str, Finding]:
    known = {
        rule.name: figure
        for rule in checked.rules
        if rule.figure and (figure := checked.figures.get(rule.name)) is not None
    }
    if not known:
        return {}
    rules = [rule for rule in checked.rules if rule.name in known]
    frame = pd.DataFrame({name: [float(figure.value)] for name, figure in known.items()})
    expectations = []
    for rule in rules:
        bound = {"min_value" if rule.least else "max_value": float(rule.limit(asked))}
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(column=rule.name, **bound, **_about(rule, checked, asked))
        )
    broken = _run(context, source, FIGURES + checked.view.name, frame, expectations)
    return {rule.name: finding_of_figure(checked, rule, asked) for rule in rules if rule.name in broken}


def _about(rule: Rule, checked: Checked, asked: Asked) -> dict[str, Any]:
    """What an expectation says of its rule: the sentence with the reason, and how grave a breach is."""
    sentence = rule.filled(rule.text, checked.view.name, asked)
    figure = checked.figures.get(rule.name)
    said = f" Here: {figure.said}." if figure else ""
    return {
        "description": f"{sentence} (why: {rule.reason}).{said}",
        "meta": {"rule": rule.name},
        "severity": _SEVERITY[rule.gravity(asked)],
    }


def _run(
    context: Any, source: Any, name: str, frame: pd.DataFrame, expectations: list[Any]
) -> dict[str, dict[str, Any]]:
    """Validate a frame; returns rule -> details of each expectation that is not met.

    Raises:
        StageError: an expectation could not be checked.
    """
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=expectations))
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all rows")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=batch, suite=suite)
    )
    outcome = definition.run(
        batch_parameters={"dataframe": frame},
        # More than BASIC would collect the index of every row, a row at a time.
        result_format={"result_format": "BASIC"},
    )
    broken = {}
    for result in outcome.results:
        rule = result.expectation_config.meta["rule"]
        if result.success:
            continue
        if not result.result:  # the check itself failed
            reasons = [error["exception_message"] for error in result.exception_info.values()]
            raise StageError(f"{name}: rule {rule} could not be checked: {' '.join(reasons[0].split())}")
        broken[rule] = result.result
    return broken
