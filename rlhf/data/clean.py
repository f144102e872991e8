"""Texts with characters that no person types: controls, and what decoders leave for broken bytes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.byte_kinds import Bytes, Mask, holding

# Control characters other than tab and line feed, and the mark that decoders leave for a broken byte, in
# RE2's spelling, which Arrow reads.
_BAD_CHARACTERS = r"[\x00-\x08\x0b-\x1f\x7f-\x{9f}\x{fffd}]"


def unclean(texts: Any) -> Any:
    """Which texts of an Arrow array hold such characters; null holds none."""
    held = holding(texts, _may_be_bad)
    if held.any():  # few texts hold such bytes, and the pattern takes longer than all that is above
        bad = pc.match_substring_regex(texts.filter(pa.array(held)), _BAD_CHARACTERS)
        held[held] = bad.to_numpy(zero_copy_only=False)
    return pa.array(held)


def _may_be_bad(content: Bytes) -> Mask:
    """Bytes with which one of the characters begins; few others that are common begin so."""
    controls = (content < 32) & (content != 9) & (content != 10)
    return controls | (content == 0x7F) | (content == 0xC2) | (content == 0xEF)
