"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from rlhf.data.plural import plural


@pytest.mark.parametrize(
    ("number", "noun", "verb", "said"),
    [
        (1, "row", "", "1 row"),
        (0, "row", "", "0 rows"),
        (2, "person", "", "2 people"),
        (1, "person", "", "1 person"),
        (3, "entry", "", "3 entries"),
        (1, "prompt", "are too long", "1 prompt is too long"),
        (2, "prompt", "are too long", "2 prompts are too long"),
        (1, "row", "name no labeler", "1 row names no labeler"),
        (1, "row", "have", "1 row has"),
    ],
)
def test_one_is_no_plural(number: int, noun: str, verb: str, said: str) -> None:
    assert plural(number, noun, verb) == said
