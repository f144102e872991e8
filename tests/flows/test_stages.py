"""How a stage of a run ended, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.stages import error_line


@pytest.mark.parametrize(
    ("printed", "error", "line"),
    [
        (["error: x: row 1: bad", "last"], "failed to reproduce", "sft: x: row 1: bad"),
        (["Traceback", "KeyError: 'a'"], "exited with 1", "sft: KeyError: 'a'; exited with 1"),
        (["step 3"], "failed to run: x, exited with 3", "sft: step 3; failed to run: x, exited with 3"),
        ([], "[Errno 28] No space left on device: 'x'", f"sft: {Path.cwd()}"),
        ([], "[Errno 28] No space left on device: '/cache/ab/c1'", "sft: /cache/ab/c1: the disk is full: "),
    ],
)
def test_the_error_line_is_the_stages_own_or_its_last_and_dvcs(
    printed: list[str], error: str, line: str
) -> None:
    assert error_line("sft", printed, error).startswith(line)


def test_a_stage_that_another_signal_ended_blames_no_memory() -> None:
    line = "sft: its process was ended by SIGTERM; the next run goes on from its last checkpoint"
    assert error_line("sft", ["step 3"], "exited with -15") == line
