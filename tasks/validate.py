"""Check what may enter with Great Expectations: `python -m tasks.validate prepared|comparisons`.

`prepared` checks data/prepared before any training, `comparisons` the collected data/comparisons. Writes Data
Docs to reports/validation/<what>/index.html, whether rows pass or not, and metrics when they do.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import great_expectations as gx
import pandas as pd

from rlhf.data.base_files import local_folder
from rlhf.data.contracts import COMPARISON, CORPUS, DEMONSTRATION, PROMPT, VOTE
from rlhf.data.files import write_json, written_beside
from rlhf.data.table import read_table
from rlhf.settings import Pretrained, Scratch, Settings
from tasks import suites
from tasks.data_docs import SECTIONS, make_self_contained
from tasks.runtime.errors import StageError
from tasks.runtime.feasibility import (
    by_form,
    conversations_too_long,
    gate_warning,
    problems_of_data,
    too_long,
    turn_counts,
    without_cue,
)
from tasks.runtime.stage import Stage, run
from tasks.suites import Rule

if TYPE_CHECKING:
    from rlhf.models.template import Template

STAGES = {"prepared": "validate", "comparisons": "validate-comparisons"}


def main(stage: Stage) -> dict[str, float]:
    """Run the suites of the stage; returns rows and the number of expectations.

    Raises:
        StageError: a rule is broken, in a line that names dataset, rule, rows and an example; or the rows
            pass and cannot do what the parameters ask.
    """
    what = next(what for what, name in STAGES.items() if name == stage.name)
    metrics = Path("metrics") / f"{stage.name.replace('validate', 'validation')}.json"
    metrics.unlink(missing_ok=True)  # An earlier verdict must not outlive a failure.
    settings, collect = stage.settings.prepare, stage.settings.collect
    tables = {
        "demonstrations": read_table("data/prepared/demonstrations.parquet", DEMONSTRATION),
        "prompts": read_table("data/prepared/prompts.parquet", PROMPT),
    }
    votes = read_table("data/prepared/votes.parquet", VOTE)
    known = set(collect.groups)
    if what == "prepared":
        tables["comparisons"] = read_table("data/prepared/comparisons.parquet", COMPARISON)
        # An empty table passes every rule, so the metrics and the base model do not change with the labelers.
        groups = known if collect.labelers == "simulated" or not tables["comparisons"] else None
        rules = {
            "demonstrations": suites.demonstrations(settings),
            "prompts": suites.prompts(settings),
            "comparisons": suites.comparisons(
                settings, groups, required=collect.labelers == "given" and not votes
            ),
        }
    else:
        tables["comparisons"] = read_table("data/comparisons/comparisons.parquet", COMPARISON)
        groups = known if collect.labelers == "simulated" else None
        rules = {"comparisons": suites.comparisons(settings, groups, required=not votes)}

    docs = Path("reports/validation") / what
    frames = {name: suites.frame(name, tables) for name in rules}
    failures = check(frames, rules, docs)
    if failures:
        more = f" (and {len(failures) - 1} more rules are broken)" if len(failures) > 1 else ""
        raise StageError(f"{failures[0]}{more}; see {docs}/index.html")
    refuse_infeasible(stage.settings, tables | {"votes": votes}, collected=what == "comparisons")
    figures = {
        name: {"rows": len(frames[name]), "expectations": len(rules[name]), "failed": 0} for name in rules
    }
    write_json(metrics, figures)
    for name, counts in figures.items():
        print(f"{name}: {counts['rows']} rows meet all {counts['expectations']} expectations")
    print(f"Data Docs: {docs}/index.html")
    return {f"{name}/{key}": value for name, counts in figures.items() for key, value in counts.items()}


def refuse_infeasible(settings: Settings, tables: dict[str, Any], collected: bool) -> None:
    """Refuse data that the parameters cannot use, and say where the gate can let nothing through.

    Raises:
        StageError: with what is wrong and how to mend it.
    """
    problems = problems_of_data(settings, tables, collected)
    if not collected:
        texts, talks = by_form(settings, tables)
        context, template = reach(settings.base, tables["demonstrations"])
        in_turns = not talks or has_template(template())
        if not in_turns:
            texts, talks = by_form(settings, tables, in_turns)
        for problem in (
            without_cue(settings, tables["demonstrations"], in_turns),
            too_long(
                settings,
                [row["prompt"] for row in texts],
                context,
                lambda: [len(ids) for ids in template().prompts(texts)],
            ),
            conversations_too_long(settings, talks, context, lambda: turn_counts(template(), talks)),
        ):
            problems += [problem] if problem else []
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StageError(f"{problems[0].text}{more}")
    held_out = len({row["prompt"] for row in tables["demonstrations"] if row["split"] == "test"})
    warning = None if collected else gate_warning(settings, held_out)
    if warning:
        print(f"warning: {warning}")


def reach(
    base: Scratch | Pretrained, demonstrations: Sequence[dict[str, Any]]
) -> tuple[int, Callable[[], Template]]:
    """The context of the base that the stage `base` will make, and what gives its template.

    Of a pretrained base only config and tokenizer are fetched, so that a prompt that does not fit is known
    before its weights are.

    Raises:
        DataError: a base that is not there, or cannot be used.
    """
    if isinstance(base, Scratch):
        return base.context, lambda: scratch_template(base, demonstrations)
    from rlhf.models.base import read_text  # here, since it loads torch
    from rlhf.models.base_checks import check_options, known_config
    from rlhf.models.base_source import find
    from rlhf.models.policy import context_length

    source = find(base.path, base.revision, local_folder(base))
    config = known_config(source)
    check_options(source.name, config, context=base.context)
    return base.context or context_length(
        config
    ), lambda: read_text(source, base.template, base.template_arguments).template


def has_template(template: Template) -> bool:
    """Whether conversations are read as turns, and not as the text that people see of them."""
    return bool(template.tokenizer.chat_template)


def scratch_template(base: Scratch, demonstrations: Sequence[dict[str, Any]]) -> Template:
    """The template over the tokenizer that the stage `base` will train."""
    from rlhf.models.scratch import tokenizer_texts, train_tokenizer  # here, since it loads torch
    from rlhf.models.template import template_of

    texts: Iterable[str] = []  # a closed vocabulary has a token for each word, known or not
    if base.tokenizer == "bpe":
        corpus = read_table("data/prepared/corpus.parquet", CORPUS)
        texts = tokenizer_texts(corpus, demonstrations)
    return template_of(train_tokenizer(texts, base.tokenizer, base.vocab_size, base.template == "chatml"))


def check(frames: dict[str, pd.DataFrame], rules: dict[str, list[Rule]], docs: Path) -> list[str]:
    """Check each table against its rules and write the Data Docs; returns a line for each broken rule."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    failures = []
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
        source = context.data_sources.add_pandas("parquet")
        for name, frame in frames.items():
            failures += _check_table(context, source, name, frame, rules[name])
        context.build_data_docs()
        make_self_contained(beside)
    return failures


def _check_table(context: Any, source: Any, name: str, frame: pd.DataFrame, rules: list[Rule]) -> list[str]:
    for number, rule in enumerate(rules):
        rule.expectation.description = rule.text
        rule.expectation.meta = {"rule": number}
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=[rule.expectation for rule in rules]))
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all rows")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=batch, suite=suite)
    )
    outcome = definition.run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["row"]},
    )
    broken = {
        result.expectation_config.meta["rule"]: result for result in outcome.results if not result.success
    }
    return [f"{name}: {_sentence(rules[number], broken[number], frame)}" for number in sorted(broken)]


def _sentence(rule: Rule, result: Any, frame: pd.DataFrame) -> str:
    """Which rule is broken, by how many rows, the first of them, and how to mend it."""
    details = result.result
    if not details:  # the check itself failed
        reasons = [error["exception_message"] for error in result.exception_info.values()]
        return f"rule that could not be checked: {rule.text} ({' '.join(reasons[0].split())})"
    if rule.show is None:
        missing = details.get("partial_missing_list")
        detail = (
            f"missing: {', '.join(map(str, missing))}" if missing else f"found {details['observed_value']}"
        )
        return f"broken rule: {rule.text} ({detail}); {rule.mend}"
    number = min(int(place["row"]) for place in details["partial_unexpected_index_list"])
    row = frame.iloc[number - 1]
    value = ascii(row[rule.show])
    value = value if len(value) <= 60 else value[:57] + "..."
    count = details["unexpected_count"]
    return (
        f"broken rule: {rule.text}; {count} row{'s' * (count != 1)}, such as row {number} of {row['source']} "
        f"({rule.show} {value}); {rule.mend}"
    )


if __name__ == "__main__":
    run("validate", main, STAGES)
