"""Which texts hold bytes of a kind: as each text alone says it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rlhf.data.byte_kinds import holding, not_ascii, raw
from rlhf.data.clean import unclean
from rlhf.data.counts import words_in

TEXTS = ["", "a", None, "é", "", "b\x00", "\ufffd", " two  words ", "\x1c", "\n", "", "x\x0by", "日本 語", ""]


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], [], [None, None], TEXTS[::-1], ["a b", " ", None, "c"]])
def test_a_column_says_what_its_texts_say(texts: list[str | None], start: int) -> None:
    column = pa.array(texts, pa.string()).slice(start)
    texts = texts[start:]
    wide = [text is not None and not text.isascii() for text in texts]
    assert holding(column, not_ascii).tolist() == wide
    assert words_in(column).tolist() == [len(text.split()) if text else -1 for text in texts]
    bad = [bool(text) and any(mark in text for mark in "\x00\x0b\x1c\ufffd") for text in texts]
    assert unclean(column).to_pylist() == bad


def test_the_bytes_of_a_slice_are_its_own() -> None:
    offsets, content = raw(pa.array(["ab", "", "c", "de"]).slice(1, 2))
    assert (offsets.tolist(), content.tobytes()) == ([0, 0, 1], b"c")
    assert holding(pa.array(["ab", "ba"]), lambda content: content == ord("b")).dtype == np.bool_
