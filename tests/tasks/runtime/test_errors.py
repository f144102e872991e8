"""How a command ends: one line for what is expected, and quietly where nobody reads on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlhf.data.errors import DataError
from tasks.runtime.errors import one_line_errors

TALKS = """
from tasks.runtime.errors import one_line_errors
with one_line_errors():
    for i in range(10**6):
        print(i)
"""


def test_an_expected_error_is_one_line_that_cannot_drive_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise DataError("a row \x1b[31m is wrong")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: a row \\x1b[31m is wrong\n"


def test_a_command_whose_reader_has_enough_ends_quietly() -> None:
    talking = subprocess.Popen(
        [sys.executable, "-c", TALKS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert talking.stdout is not None
    assert talking.stdout.readline() == "0\n"
    talking.stdout.close()
    assert talking.stderr is not None
    assert talking.stderr.read() == ""
    assert talking.wait(60) == 1
