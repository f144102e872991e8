"""Rows that the context of the base cannot hold: known before anything trains, dropped or cut on demand.

A token is a byte at least, or a whole word, so that only rows with many of them are tokenised. With
`prepare.too_long: cut` a plain prompt loses its start in every table alike, as training and PPO would cut it
each in its own way; conversations and answers are never cut, since a cut would take the beginning of a turn
or the end of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.base_files import local_folder
from rlhf.data.contracts import CORPUS, DEMONSTRATION, TABLES, row_id
from rlhf.data.plural import plural
from rlhf.data.table import TableWriter, read_table
from rlhf.settings import Pretrained, Scratch, Settings
from tasks.rules.rule import ANSWERS, TEXTS, Mask
from tasks.rules.view import Batch, View, numpy, views
from tasks.runtime.feasibility import WORDS
from tasks.runtime.preflight import Problem

if TYPE_CHECKING:
    from rlhf.models.template import Template

# Most tokens that a chat template is expected to add to a conversation, and to each of its turns: rows that
# fit with them are not tokenised at all.
_TEMPLATE, _TURN = 512, 16
_ROUNDS = 4  # a tokenizer of our own learns from the rows, so that what is left may have other tokens


def fit(folder: Path, settings: Settings) -> dict[str, int]:
    """Drop or cut the rows of prepared tables that the context cannot hold, as `prepare.too_long` says.

    Args:
        folder: of the tables, which are written anew where rows change.
        settings: every parameter.

    Returns:
        table -> how many rows were dropped or cut; tables in which all fit are left out.
    """
    changed: dict[str, int] = {}
    context, template_of = reach(settings.base, folder)
    for _ in range(_ROUNDS):
        tables = views({name: read_table(folder / f"{name}.parquet", TABLES[name]) for name in TEXTS})
        long = {name: _too_long(view, settings, context, template_of) for name, view in tables.items()}
        if not any(long.values()):
            break
        if settings.prepare.too_long == "drop":
            counts = {name: _without(folder, tables[name], set(rows)) for name, rows in long.items() if rows}
        else:
            texts = _cut(long, context, settings, template_of())
            counts = {name: _rewritten(folder, view, texts) for name, view in tables.items()}
            if not any(counts.values()):
                break  # what is left is never cut; the stage `validate` says so
        for name, count in counts.items():
            if count:
                changed[name] = changed.get(name, 0) + count
    return changed


def _too_long(
    view: View, settings: Settings, context: int, template_of: Callable[[], Template]
) -> dict[int, tuple[dict[str, Any], int]]:
    """The rows of a table that do not fit: number -> the row, and the tokens that its prompt may have."""
    numbers: list[int] = []
    rows, before = [], 0
    for batch in view.batches():
        for place in np.flatnonzero(_suspect(batch, settings, context)).tolist():
            numbers.append(before + place)
            rows.append(batch.row(place))
        before += batch.size
    if not rows:
        return {}
    template, length = template_of(), max(settings.ppo.response_length, settings.evaluate.response_length)
    turns, longest = has_template(template), settings.ppo.max_prompt_length or context
    long = {}
    for number, row, prompt, answer in zip(numbers, rows, *_tokens(template, rows), strict=True):
        talk = bool(row["messages"]) and turns and settings.base.template != "plain"
        room = context - max(answer, length)
        if (prompt if talk else min(prompt, longest)) > room or (talk and prompt > longest):
            long[number] = row, room
    return long


def _tokens(template: Template, rows: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """The tokens of each row's prompt, and of its longest answer, with the token that ends it."""
    asked = [(number, text) for number, row in enumerate(rows) for text in answers_of(row)]
    encoded = template.answers([rows[number] for number, _ in asked], [text for _, text in asked])
    longest = [0] * len(rows)
    for (number, _), ids in zip(asked, encoded, strict=True):
        longest[number] = max(longest[number], len(ids))
    return [len(ids) for ids in template.prompts(rows)], longest


def answers_of(row: Mapping[str, Any]) -> list[str]:
    """The completions of a row of any table."""
    texts = [row.get("completion"), *(row.get("completions") or ())]
    return [text for text in texts if text is not None]


def _cut(
    long: Mapping[str, Mapping[int, tuple[dict[str, Any], int]]],
    context: int,
    settings: Settings,
    template: Template,
) -> dict[str, str]:
    """Prompt -> what is left of it, where it is plain text and some of it has room in every row."""
    rooms: dict[str, int] = {}
    for rows in long.values():
        for row, room in rows.values():
            if not row["messages"]:
                rooms[row["prompt"]] = min(room, rooms.get(row["prompt"], context))
    return {prompt: end for prompt, room in rooms.items() if (end := _end(prompt, room, template))}


def _end(prompt: str, room: int, template: Template) -> str:
    """The longest end of a text, from the beginning of a word on, that has at most so many tokens."""
    words = prompt.split(" ")
    low, high = 0, len(words)  # words that fit, and that do not
    while low + 1 < high:
        middle = (low + high) // 2
        row = {"prompt": " ".join(words[-middle:]).strip(), "messages": None}
        fits = len(template.prompt(row)) <= room
        low, high = (middle, high) if fits else (low, middle)
    return " ".join(words[-low:]).strip() if low else ""


def _without(folder: Path, view: View, numbers: set[int]) -> int:
    """Write a table without some rows; returns how many they are."""
    kept = [number for number in range(view.size) if number not in numbers]
    whole = read_table(folder / f"{view.name}.parquet", view.contract)
    with TableWriter(folder / f"{view.name}.parquet", view.contract) as writer:
        for batch in whole.take(kept).batches():
            writer.write_batch(batch)
    return len(numbers)


def _rewritten(folder: Path, view: View, texts: Mapping[str, str]) -> int:
    """Write a table with other prompts, and the ids that follow from them; returns how many rows changed."""
    count = sum(
        prompt in texts
        for batch in view.batches(["prompt", "messages"])
        for prompt, plain in zip(batch.prompt_texts, batch.plain, strict=True)
        if plain
    )
    if count:
        with TableWriter(folder / f"{view.name}.parquet", view.contract) as writer:
            writer.write(_with_prompts(view, texts))
    return count


def _with_prompts(view: View, texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for batch in view.batches():
        for number in range(batch.size):
            row = batch.row(number)
            if not row["messages"] and row["prompt"] in texts:
                row["prompt"] = texts[row["prompt"]]
                row["id"] = row_id(view.contract, row)
            yield row


@dataclass
class Squeezed:
    """Rows whose prompt and answer do not fit the context together.

    Attributes:
        alone: answers that leave no room for any prompt, or for a conversation, which is never cut.
        beside: plain prompts that fit, but would lose their start beside their answer.
        agreed: plain prompts that lose it, but less than `ppo.max_prompt_length` cuts for PPO.
        worst: the tokens of the longest answer of each kind, and its row.
    """

    alone: int = 0
    beside: int = 0
    agreed: int = 0
    worst: dict[str, tuple[int, str]] = field(default_factory=dict)

    def count(self, kind: str, answer: int, row: Mapping[str, Any]) -> None:
        """Count a row with an answer of so many tokens."""
        setattr(self, kind, getattr(self, kind) + 1)
        told = answer, f"row of {row['source']} with the prompt {row['prompt']!a:.40}"
        self.worst[kind] = max(self.worst.get(kind, (0, "")), told)

    def problems(self, context: int) -> list[Problem]:
        """What no training should begin with, most severe first."""
        lines = (
            (
                "alone",
                f"{plural(self.alone, 'row')} with an answer that does not fit beside its prompt",
                "shorten it, raise base.context, or set prepare.too_long to drop",
            ),
            (
                "beside",
                f"{plural(self.beside, 'row')} with a plain prompt that loses its start beside the answer",
                "shorten either, raise base.context, or set prepare.too_long to cut or drop",
            ),
        )
        return [
            Problem(
                "sft",
                f"{what}: the context is {context} tokens, and the answer of the {self.worst[kind][1]} has "
                f"{self.worst[kind][0]}; {mend}",
            )
            for kind, what, mend in lines
            if getattr(self, kind)
        ]


def squeezed(settings: Settings, tables: Mapping[str, View], folder: Path) -> Squeezed:
    """The rows that a training could not show whole: prompt and answer together exceed the context.

    What is told apart here is what `fit` drops or cuts: a prompt counts with as many tokens as
    `ppo.max_prompt_length` leaves it.

    Args:
        settings: every parameter.
        tables: with answers, prepared.
        folder: where they are.
    """
    context, template_of = reach(settings.base, folder)
    longest, told = settings.ppo.max_prompt_length or context, Squeezed()
    for name in ANSWERS:
        rows = list(suspects(tables[name], settings, context))
        if not rows:
            continue
        template = template_of()
        turns = has_template(template) and settings.base.template != "plain"
        for row, prompt, answer in zip(rows, *_tokens(template, rows), strict=True):
            talk, room = bool(row["messages"]) and turns, context - answer
            if (prompt if talk else 1) > room:
                told.count("alone", answer, row)
            elif min(prompt, longest) > room:
                told.count("beside", answer, row)
            elif prompt > room:
                told.count("agreed", answer, row)
    return told


def _longest_answers(batch: Batch, measure: Callable[[Any, Any], Any]) -> Any:
    """The longest answer of each row with the token that ends it, 0 where a table has none."""
    longest = np.zeros(batch.size, np.int64)
    if batch.has("completions") or batch.has("completion"):
        np.maximum.at(longest, batch.answers.rows, measure(batch.answers.values, batch.answers.rows) + 1)
    return longest


def suspects(view: View, settings: Settings, context: int) -> Iterator[dict[str, Any]]:
    """The rows that may be too long: a token is a byte at least, and a template adds some of its own."""
    for batch in view.batches():
        for number in np.flatnonzero(_suspect(batch, settings, context)):
            yield batch.row(int(number))


def _suspect(batch: Batch, settings: Settings, context: int) -> Mask:
    suspect = _exceeds(batch, settings, context, pc.binary_length)
    base = settings.base
    if suspect.any() and isinstance(base, Scratch) and base.tokenizer == "word":
        suspect = _exceeds(batch, settings, context, _words, suspect)  # 30 MB a second, so of these alone
    return suspect


def _words(texts: Any) -> Any:
    """The most tokens of each text in words, as `most_tokens`; Arrow splits at letters beyond ASCII too."""
    return pc.count_substring_regex(texts, pattern=WORDS)


def _exceeds(
    batch: Batch, settings: Settings, context: int, most: Callable[[Any], Any], among: Mask | None = None
) -> Mask:
    """The rows among these that may be too long, by the most tokens that each text of an array may have."""

    def measure(texts: Any, rows: Any = slice(None)) -> Any:
        if among is not None:  # null texts are not counted
            texts = pc.if_else(pa.array(among[rows]), texts, pa.scalar(None, texts.type))
        return numpy(pc.fill_null(most(texts), 0)).astype(np.int64)

    length = max(settings.ppo.response_length, settings.evaluate.response_length)
    room = context - length - (0 if isinstance(settings.base, Scratch) else _TEMPLATE)
    longest = settings.ppo.max_prompt_length
    sizes = measure(batch["prompt"])
    turns = measure(batch.contents.values, batch.contents.rows) + _TURN
    several = np.bincount(batch.contents.rows, turns, minlength=batch.size)
    answers = np.maximum(_longest_answers(batch, measure) - length, 0)
    several += answers
    suspect = np.maximum(sizes + answers, several) > room
    if longest is not None:
        suspect |= several > longest
    return suspect if among is None else suspect & among


def reach(base: Scratch | Pretrained, folder: Path) -> tuple[int, Callable[[], Template]]:
    """The context of the base that the stage `base` will make, and what gives its template.

    Of a pretrained base only config and tokenizer are fetched, so that a prompt that does not fit is known
    before its weights are.

    Args:
        base: its parameters.
        folder: of the tables that a tokenizer of our own learns from.

    Raises:
        DataError: a base that is not there, or cannot be used.
    """
    if isinstance(base, Scratch):
        return base.context, lambda: scratch_template(base, folder)
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


def scratch_template(base: Scratch, folder: Path) -> Template:
    """The template over the tokenizer that the stage `base` will train."""
    from rlhf.models.scratch import tokenizer_texts, train_tokenizer  # here, since it loads torch
    from rlhf.models.template import template_of

    texts: Iterable[str] = []  # a closed vocabulary has a token for each word, known or not
    if base.tokenizer == "bpe":
        corpus = read_table(folder / "corpus.parquet", CORPUS)
        demonstrations = read_table(folder / "demonstrations.parquet", DEMONSTRATION)
        texts = tokenizer_texts(corpus, demonstrations)
    return template_of(train_tokenizer(texts, base.tokenizer, base.vocab_size, base.template == "chatml"))
