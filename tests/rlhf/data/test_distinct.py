"""Spellings of a prompt are one prompt; what means something else stays apart."""

import pytest

from rlhf.data.distinct import first_of_spelling, near_copies, spelling


@pytest.mark.parametrize(
    "other",
    [
        "WHAT is the  capital of France",
        "what is the capital of france?!",
        "“What\tis the capital\u200b of France”…",
        "Ｗhat is the cápital of France",
    ],
)
def test_spellings_of_a_prompt_are_one(other):
    assert spelling(other) == spelling("What is the capital of France?")


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("2 + 3", "2 * 3"),
        ("2 + 3", "2 - 3"),
        ("1.5", "15"),
        ("a < b", "a > b"),
        ("हिन्दी", "हन्द"),
        ("?!", "..."),
    ],
)
def test_what_means_something_else_stays_apart(text, other):
    assert spelling(text) != spelling(other)


def test_near_copies_are_counted_and_different_questions_are_not():
    copies = [f"please tell me now what the capital of France is today number {i}" for i in range(50)]
    assert near_copies(copies) == pytest.approx(49 / 50)
    assert near_copies([f"question {i} about thing {7 * i}" for i in range(50)]) == 0
    assert near_copies(["?", "!"]) == near_copies(["one"]) == 0
    assert first_of_spelling(["A b", "a  B!", "c"]) == ["A b", "A b", "c"]


@pytest.mark.parametrize(
    "mark", [*"\x00\x01\ufe0f\u115f\u3164\u2800\u180b\U000e0100\u034f\u00ad\u200d", *"。؟।؛"]
)
def test_what_shows_nothing_and_every_scripts_full_stop_make_no_other_prompt(mark):
    assert spelling(f"what now{mark}") == spelling("what now")
