"""YAML that people write: what is refused, each in one short line, and what is read as YAML 1.2 says."""

from __future__ import annotations

import pytest

from rlhf.settings.yaml_text import DEEPEST, LONGEST_NUMBER, YamlError, yaml_value

REFUSED = {
    "an alias": ("a: &x [1]\nb: *x", "line 2: *x is an alias; write out what it stands for"),
    "a key twice": ("a: 1\nb: {c: 1, c: 2}", "line 2: the key 'c' stands twice; keep one of the two"),
    "too deep a list": ("[" * (DEEPEST + 1), f"more than {DEEPEST} lists or mappings within each other"),
    "too deep a mapping": ("{a: " * (DEEPEST + 1), f"more than {DEEPEST} lists or mappings"),
    "too long a number": ("a: " + "9" * (LONGEST_NUMBER + 1), "line 1: '9999999999"),
    "too long a fraction": ("a: 1." + "9" * LONGEST_NUMBER, "... is too long a number"),
    "too long a number in hex": ("a: 0x" + "f" * LONGEST_NUMBER, "... is too long a number"),
    "no date": ("a: 2026-13-45", "line 1: '2026-13-45' is no timestamp; quote it where it is a text"),
    "no time": ("\na: 2026-12-01 99:99:99", "line 2: '2026-12-01 99:99:99' is no timestamp"),
    "no number": ("a: !!int ''", "'' is no int"),
    "no truth": ("a: !!bool x", "'x' is no bool"),
    "a list as a key": ("? [a]\n: 1", "found unhashable key"),
    "an object of Python": ("a: !!python/name:os.system", "could not determine a constructor for the tag"),
    "a long tag": (f"a: !<{'t' * 5000}> 1", "could not determine a constructor for the tag"),
    "two documents": ("--- 1\n--- 2", "expected a single document"),
    "a control character": ("a: \0", "unacceptable character #x0000"),
    "an open list": ("a: [1", "expected ',' or ']'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_one_short_line(case: str) -> None:
    text, said = REFUSED[case]
    with pytest.raises(YamlError) as caught:
        yaml_value(text)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(YamlError, match="unacceptable character #x00ff"):
        yaml_value(b"a: \xff")


def test_numbers_are_those_of_yaml_1_2() -> None:
    """PyYAML reads 1e-3 as a text, and DVC, which reads the same file, as a number."""
    text = "[1e-3, 5E3, .5e1, -2.e+1, 0.25, 17, 1e, e3, .e1, 1e400, " + "9" * LONGEST_NUMBER + "]"
    *numbers, long = yaml_value(text)
    assert numbers == [0.001, 5000.0, 5.0, -20.0, 0.25, 17, "1e", "e3", ".e1", float("inf")]
    assert long == 10**LONGEST_NUMBER - 1
    assert yaml_value("") is None
    assert yaml_value("[" * DEEPEST + "]" * DEEPEST)
