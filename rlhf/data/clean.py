"""Texts with characters that no person types: controls, and what decoders leave for broken bytes."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

# Control characters other than tab and line feed, and the mark that decoders leave for a broken byte, in
# RE2's spelling, which Arrow reads.
_BAD_CHARACTERS = r"[\x00-\x08\x0b-\x1f\x7f-\x{9f}\x{fffd}]"


def unclean(texts: Any) -> Any:
    """Which texts of an Arrow array hold such characters; null holds none."""
    return pc.fill_null(pc.match_substring_regex(texts, _BAD_CHARACTERS), False)
