"""How a stage of a run ended, in one line."""

from __future__ import annotations

import pytest

from flows.stages import error_line


@pytest.mark.parametrize(
    ("printed", "error", "line"),
    [
        (["error: x: row 1: bad", "last"], "failed to reproduce", "sft: x: row 1: bad"),
        (["Traceback", "KeyError: 'a'"], "exited with 1", "sft: KeyError: 'a'; exited with 1"),
        ([], "exited with -9", "sft: exited with -9"),
    ],
)
def test_the_error_line_is_the_stages_own_or_its_last_and_dvcs(
    printed: list[str], error: str, line: str
) -> None:
    assert error_line("sft", printed, error) == line
