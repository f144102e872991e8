"""What may enter: Great Expectations suites for demonstrations, prompts and comparisons.

A rule over one column is an expectation on that column; a rule over several columns or on lists is a derived
column first (`frame`), so that every rule stands in the Data Docs with its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd

from rlhf.data.contracts import SPLITS, TABLES, row_id
from rlhf.data.conversations import check_messages
from rlhf.data.errors import DataError
from rlhf.settings import Prepare

Rows = Sequence[dict[str, Any]]
# Control characters other than tab and line feed, and the mark that decoders leave for a broken byte.
BAD_CHARACTERS = "[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]"
_PYTHON = {"string": "str", "int64": "int", "double": "float", "bool": "bool"}


@dataclass(frozen=True)
class Rule:
    """One rule of a suite.

    Attributes:
        text: what holds, as a person would say it.
        expectation: how Great Expectations checks it.
        mend: what to do about a row that breaks it.
        show: the column whose value is shown as an example; None where the rule is over the whole table.
    """

    text: str
    expectation: gxe.Expectation
    mend: str
    show: str | None


def demonstrations(settings: Prepare) -> list[Rule]:
    """The suite of demonstrations."""
    return [
        *_table("demonstrations"),
        _rows("demonstrations"),
        Rule(
            "train, validation and test have rows",
            gxe.ExpectColumnDistinctValuesToContainSet(
                column="split", value_set=["train", "validation", "test"]
            ),
            "give rows a split or raise prepare.test_share and prepare.validation_share",
            None,
        ),
        *_texts("completion", settings.max_completion_chars, "prepare.max_completion_chars"),
        *_prompts_and_ids(settings),
    ]


def prompts(settings: Prepare) -> list[Rule]:
    """The suite of prompts."""
    return [*_table("prompts"), _rows("prompts"), *_prompts_and_ids(settings)]


def comparisons(settings: Prepare, groups: Collection[str] | None, required: bool) -> list[Rule]:
    """The suite of comparisons.

    Args:
        settings: longest texts.
        groups: the known labeler groups; None where people whom nobody listed gave the rankings.
        required: whether a table without rows fails.
    """
    rules = _table("comparisons") + ([_rows("comparisons")] if required else [])
    for column in ("completions", "ranking", "labeler_id"):
        rules.append(_filled(column))
    rules += [
        _true("completions_are_2_to_9", "a comparison has 2 to 9 completions", "completions"),
        _true(
            "completions_have_text",
            "every completion has text, after one space where the prompt is plain text",
            "completions",
        ),
        Rule(
            f"no completion is longer than {settings.max_completion_chars} characters",
            gxe.ExpectColumnValuesToBeBetween(
                column="longest_completion", max_value=settings.max_completion_chars
            ),
            "shorten it or raise prepare.max_completion_chars",
            "longest_completion",
        ),
        _true(
            "completions_are_clean", "completions have no control or replacement characters", "completions"
        ),
        _true(
            "ranking_is_dense",
            "a ranking gives every completion a rank, from 1 on, skipping none",
            "ranking",
            "rank like 1, 2, 2, 3: 1 is best, ties share a rank",
        ),
        _true("chosen_is_not_rejected", "no completion is ranked against its own copy", "completions"),
        _true("policies_fit", "policies, where given, name one for each completion", "policies"),
        _true(
            "shown_order_fits", "a shown order, where given, is an order of the completions", "shown_order"
        ),
        Rule(
            "a strength, where given, is 1 to 9",
            gxe.ExpectColumnValuesToBeBetween(column="strength", min_value=1, max_value=9),
            "mend it or leave it out",
            "strength",
        ),
        Rule(
            "seconds, where given, are not negative",
            gxe.ExpectColumnValuesToBeBetween(column="seconds", min_value=0),
            "mend them or leave them out",
            "seconds",
        ),
    ]
    if groups is not None:
        known = sorted(groups)
        rules += [
            _filled("labeler_group"),
            Rule(
                f"the labeler group is one of {', '.join(known)}",
                gxe.ExpectColumnValuesToBeInSet(column="labeler_group", value_set=known),
                "name the group in collect.groups, or set collect.labelers to given",
                "labeler_group",
            ),
        ]
    return rules + _prompts_and_ids(settings)


def frame(name: str, tables: Mapping[str, Rows]) -> pd.DataFrame:
    """A table with the derived columns of its suite and `row`, counted from 1.

    Args:
        name: the table to check.
        tables: name -> rows of every table whose prompts must be in one split together.
    """
    contract = TABLES[name]
    splits: dict[str, set[str]] = {}
    for rows in tables.values():
        for row in rows:
            if row["split"]:
                splits.setdefault(row["prompt"], set()).add(row["split"])
    rows = tables[name]
    # object columns: with pandas' own text type a null list or number would change the others' type
    columns = {
        column: pd.Series([row[column] for row in rows], dtype=object) for column in contract.schema.names
    }
    own_ids = [row_id(contract, row) for row in rows]
    columns["row"] = pd.Series(range(1, len(rows) + 1))
    columns["content"] = pd.Series(own_ids, dtype=object)
    columns["id_is_of_content"] = pd.Series(
        [row["id"] == own for row, own in zip(rows, own_ids, strict=True)], dtype=bool
    )
    columns["splits_of_prompt"] = pd.Series(
        [" and ".join(sorted(splits.get(row["prompt"], {"none"}))) for row in rows], dtype=object
    )
    messages = [_derive_messages(row["messages"]) for row in rows]
    for i, column in enumerate(("messages_are_asked", "messages_are_clean", "messages_chars")):
        columns[column] = pd.Series([values[i] for values in messages], dtype=object)
    if name == "comparisons":
        derived = [_derive(row) for row in rows]
        for column in _DERIVED:
            columns[column] = pd.Series([values[column] for values in derived], dtype=object)
    return pd.DataFrame(columns)


def _derive_messages(messages: Any) -> tuple[bool, bool, int]:
    """What the rules say of one row's messages: whether they wait for an answer, whether they are cleanly
    encoded, and the characters of their contents. Plain text has none, and breaks no rule."""
    if messages is None:
        return True, True, 0
    try:
        check_messages(messages)
    except DataError:
        return False, True, 0
    text = "".join(turn["content"] for turn in messages)
    return True, not re.search(BAD_CHARACTERS, text), len(text)


def _derive(row: dict[str, Any]) -> dict[str, Any]:
    """What the rules over lists say of one comparison; null lists break no rule but that they be filled."""
    texts, ranking = row["completions"], row["ranking"]
    policies, shown = row["policies"], row["shown_order"]
    if not (isinstance(texts, list) and isinstance(ranking, list)):
        return dict.fromkeys(_DERIVED, True) | {"longest_completion": 0}
    filled = [text for text in texts if text is not None]
    ranks = set(ranking)
    rank_of = dict(zip(texts, ranking, strict=False))
    k = len(texts)
    values = (
        2 <= k <= 9,
        all(
            text is not None and re.match(r" \S" if row["messages"] is None else r"\s*\S", text)
            for text in texts
        ),
        max(map(len, filled), default=0),
        not any(re.search(BAD_CHARACTERS, text) for text in filled),
        len(ranking) == k > 0 and ranks == set(range(1, len(ranks) + 1)),
        all(rank_of[text] == rank for text, rank in zip(texts, ranking, strict=False)),
        policies is None or (len(policies) == k and None not in policies),
        shown is None or (None not in shown and sorted(shown) == list(range(k))),
    )
    return dict(zip(_DERIVED, values, strict=True))


_DERIVED = (
    "completions_are_2_to_9",
    "completions_have_text",
    "longest_completion",
    "completions_are_clean",
    "ranking_is_dense",
    "chosen_is_not_rejected",
    "policies_fit",
    "shown_order_fits",
)


def _table(name: str) -> list[Rule]:
    schema = TABLES[name].schema
    expected = gxe.ExpectTableColumnsToMatchSet(column_set=schema.names, exact_match=False)
    rules = [Rule("the columns are those of the contract", expected, "see rlhf/data/contracts.py", None)]
    for field in schema:
        kind = "list" if "list" in str(field.type) else _PYTHON[str(field.type)]
        rules.append(
            Rule(
                f"{field.name} is {field.type}",
                gxe.ExpectColumnValuesToBeOfType(column=field.name, type_=kind),
                f"write it as {field.type}",
                field.name,
            )
        )
    return rules


def _rows(name: str) -> Rule:
    text = f"there are {name}"
    return Rule(
        text, gxe.ExpectTableRowCountToBeBetween(min_value=1), f"bring at least one of the {name}", None
    )


def _prompts_and_ids(settings: Prepare) -> list[Rule]:
    known_split = gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS))
    one_split = gxe.ExpectColumnValuesToNotMatchRegex(column="splits_of_prompt", regex=" and ")
    unique_content = gxe.ExpectColumnValuesToBeUnique(column="content")
    unique_id = gxe.ExpectColumnValuesToBeUnique(column="id")
    mend_ids = "leave the ids out to have them filled in"
    return [
        *_texts("prompt", settings.max_prompt_chars, "prepare.max_prompt_chars"),
        _true(
            "messages_are_asked",
            "messages, where given, wait for an answer: roles in order, no content empty, the last not the "
            "assistant's",
            "messages",
        ),
        _true(
            "messages_are_clean",
            "messages have no control or replacement characters",
            "messages",
            "save the text as UTF-8",
        ),
        Rule(
            f"messages are no longer than {settings.max_prompt_chars} characters together",
            gxe.ExpectColumnValuesToBeBetween(column="messages_chars", max_value=settings.max_prompt_chars),
            "shorten them or raise prepare.max_prompt_chars",
            "messages_chars",
        ),
        _filled("split"),
        Rule(f"the split is one of {', '.join(SPLITS)}", known_split, "name one of them or none", "split"),
        Rule(
            "a prompt is in one split",
            one_split,
            "give all rows of a prompt the same split",
            "splits_of_prompt",
        ),
        Rule("no row says the same as another", unique_content, "leave one of them out", "prompt"),
        _filled("source"),
        _filled("id"),
        Rule("no two rows have the same id", unique_id, mend_ids, "id"),
        _true("id_is_of_content", "the id is the hash of the content", "id", mend_ids),
    ]


def _texts(column: str, longest: int, parameter: str) -> list[Rule]:
    """A text column: filled, not blank, not too long, cleanly encoded."""
    text = gxe.ExpectColumnValuesToMatchRegex(column=column, regex=r"\S")
    short = gxe.ExpectColumnValueLengthsToBeBetween(column=column, max_value=longest)
    clean = gxe.ExpectColumnValuesToNotMatchRegex(column=column, regex=BAD_CHARACTERS)
    return [
        _filled(column),
        Rule(f"the {column} has text", text, "fill it or leave the row out", column),
        Rule(
            f"the {column} is no longer than {longest} characters",
            short,
            f"shorten it or raise {parameter}",
            column,
        ),
        Rule(
            f"the {column} has no control or replacement characters", clean, "save the text as UTF-8", column
        ),
    ]


def _filled(column: str) -> Rule:
    expectation = gxe.ExpectColumnValuesToNotBeNull(column=column)
    return Rule(f"{column} is never null", expectation, "fill it or leave the row out", column)


def _true(column: str, text: str, show: str, mend: str = "mend it or leave the row out") -> Rule:
    return Rule(text, gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True]), mend, show)
