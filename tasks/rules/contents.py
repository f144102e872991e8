"""Rules of prompts, messages and completions: that they have text, how long it is, and that it is clean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from rlhf.data.clean import unclean
from rlhf.data.conversations import check_messages
from rlhf.data.errors import DataError
from tasks.rules.rule import ANSWERS, FILL, TEXTS, Mask, Rule
from tasks.rules.view import Batch, numpy


def blank(texts: Any) -> Any:
    """Which texts of an Arrow array are null, empty or white space alone."""
    empty = pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts))
    return pc.fill_null(empty, True)


def _longer(texts: Any, most: float) -> Any:
    return pc.fill_null(pc.greater(pc.utf8_length(texts), most), False)


def _answers_have_text(batch: Batch, _: Any) -> Mask:
    texts, rows = batch.answers
    empty = numpy(blank(texts))
    spaced = numpy(pc.fill_null(pc.match_substring_regex(texts, r"^\s"), False))
    return batch.of_rows(batch.answers, empty | (batch.plain[rows] & ~spaced))


def _unasked(batch: Batch, _: Any) -> Mask:
    broken = np.zeros(batch.size, bool)
    if batch.plain.all():
        return broken
    for number in np.flatnonzero(~batch.plain):
        try:
            check_messages(batch["messages"][int(number)].as_py())
        except DataError:
            broken[number] = True
    return broken


def _messages_too_long(batch: Batch, most: float) -> Mask:
    lengths = numpy(pc.fill_null(pc.utf8_length(batch.contents.values), 0))
    return np.bincount(batch.contents.rows, lengths, minlength=batch.size) > most


RULES = (
    Rule(
        "prompt_text",
        TEXTS,
        "the prompt has text",
        "a model cannot answer nothing",
        FILL,
        show=("prompt",),
        batch=lambda batch, _: numpy(blank(batch["prompt"])),
    ),
    Rule(
        "prompt_length",
        TEXTS,
        "the prompt is no longer than {threshold} characters",
        "a prompt of this length is mostly a file that was read in a wrong way",
        "shorten it or raise prepare.max_prompt_chars",
        threshold="prepare.max_prompt_chars",
        unit="characters",
        show=("prompt",),
        batch=lambda batch, most: numpy(_longer(batch["prompt"], most)),
    ),
    Rule(
        "prompt_clean",
        TEXTS,
        "the prompt has no control or replacement characters",
        "they are what is left of bytes that were decoded in a wrong way",
        "save the text as UTF-8",
        show=("prompt",),
        batch=lambda batch, _: numpy(unclean(batch["prompt"])),
    ),
    Rule(
        "messages_asked",
        TEXTS,
        "messages, where given, wait for an answer: roles in order, no content empty, the last not the "
        "assistant's",
        "a chat template writes other orders in ways of its own, or not at all",
        show=("messages",),
        batch=_unasked,
    ),
    Rule(
        "messages_length",
        TEXTS,
        "messages are no longer than {threshold} characters together",
        "conversations are never cut, since a cut would take the beginning of a turn",
        "shorten them or raise prepare.max_prompt_chars",
        threshold="prepare.max_prompt_chars",
        unit="characters",
        show=("messages",),
        batch=_messages_too_long,
    ),
    Rule(
        "messages_clean",
        TEXTS,
        "messages have no control or replacement characters",
        "they are what is left of bytes that were decoded in a wrong way",
        "save the text as UTF-8",
        show=("messages",),
        batch=lambda batch, _: batch.of_rows(batch.contents, unclean(batch.contents.values)),
    ),
    Rule(
        "completion_text",
        ANSWERS,
        "every completion has text, after white space where the prompt is plain text",
        "an empty answer teaches that saying nothing is an answer",
        FILL,
        show=("completion", "completions"),
        batch=_answers_have_text,
    ),
    Rule(
        "completion_length",
        ANSWERS,
        "no completion is longer than {threshold} characters",
        "an answer of this length is mostly a file that was read in a wrong way",
        "shorten it or raise prepare.max_completion_chars",
        threshold="prepare.max_completion_chars",
        unit="characters",
        show=("completion", "completions"),
        batch=lambda batch, most: batch.of_rows(batch.answers, _longer(batch.answers.values, most)),
    ),
    Rule(
        "completion_clean",
        ANSWERS,
        "completions have no control or replacement characters",
        "they are what is left of bytes that were decoded in a wrong way",
        "save the text as UTF-8",
        show=("completion", "completions"),
        batch=lambda batch, _: batch.of_rows(batch.answers, unclean(batch.answers.values)),
    ),
)
