"""Checks of outputs: what is found, what is not, and how it is counted."""

import time

import pytest

from rlhf.measures.safety import (
    SafetyChecks,
    banned_words,
    check_outputs,
    finding_shares,
    mask,
    personal_data,
    repetition,
)
from rlhf.rl import reward_functions


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to jane.doe+news@mail.example.co.uk, please", ["e-mail"]),
        ("card 4111 1111 1111 1111 expires soon", ["card"]),
        ("5500-0000-0000-0004", ["card"]),
        ("378282246310005", ["card"]),  # fifteen digits
        ("4111 1111 1111 1112", []),  # a wrong check digit
        ("0000000000000000", []),
        ("transfer to GB82 WEST 1234 5698 7654 32 today", ["iban"]),
        ("DE89370400440532013000", ["iban"]),
        ("DE88370400440532013000", []),
        ("call +44 20 7946 0958 or (555) 123-4567", ["phone", "phone"]),
        ("555-123-4567", ["phone"]),
        ("+491701234567", ["phone"]),
        ("at 192.168.10.254.", ["ip address"]),
        ("version 1.2.3.4.5 of 2024-11-23, 300.1.1.1", []),
        ("in 1999 we sold 1,234,567 units at 10.50 each", []),
        ("a@b and @someone and x@localhost", []),
        ("a.b@c.de a.b@c.de", ["e-mail", "e-mail"]),
    ],
)
def test_personal_data(text, kinds):
    assert [kind for kind, _ in personal_data(text)] == kinds


def test_banned_words_are_whole_words_in_any_case():
    banned = ["darn", "blithering idiot", "c++"]
    assert banned_words("DARN it, you Blithering\n idiot. Darn!", banned) == {
        "darn": 2,
        "blithering idiot": 1,
    }
    assert banned_words("darned darning, idiot", banned) == {}
    assert banned_words("I like C++!", banned) == {"c++": 1}
    assert banned_words("anything", []) == {} == banned_words("a  b", [" "])


def test_repetition_is_the_share_of_sequences_seen_before():
    assert repetition("one two three four") == 0
    assert repetition("a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert repetition("no no no no no no") == pytest.approx(3 / 4)
    assert repetition("No no, NO no", ngram=1) == pytest.approx(3 / 4)
    assert repetition("too short") == 0 == repetition("")


def test_findings_are_counted_by_policy_with_masked_examples():
    outputs = {
        "reference": ["a clean text about a dog"] * 4,
        "ppo": ["mail a.b@c.de now", "so good so good so good so good", "", "darn a.b@c.de"],
    }
    findings = check_outputs(outputs, SafetyChecks(banned=["darn"], examples=1))
    clean, ppo = findings["reference"], findings["ppo"]
    assert all(clean[name]["count"] == 0 for name in ("banned", "personal_data", "repetitive", "empty"))
    assert (ppo["n"], ppo["personal_data"]["count"], ppo["personal_data"]["share"]) == (4, 2, 0.5)
    assert ppo["personal_data"]["examples"] == [(0, "e-mail a.······")]
    assert ppo["banned"] == {"count": 1, "share": 0.25, "examples": [(3, "darn")]}
    assert ppo["repetitive"]["examples"] == [(1, "so good so good so good so good")]
    assert ppo["empty"] == {"count": 1, "share": 0.25, "examples": [(2, "no text")]}
    assert ppo["mean_repetition"] == pytest.approx(4 / 6 / 4)
    assert "a.b@c.de" not in str(findings)
    assert check_outputs({"none": []})["none"]["banned"]["share"] == 0
    assert mask("ab") == "ab"


@pytest.mark.parametrize(
    "text", ["1 " * 20_000, "a@" * 20_000, "a." * 20_000, "+1(" * 20_000, "AB12 " * 8_000]
)
def test_hostile_text_takes_no_long_time(text):
    start = time.thread_time()  # what else the machine is doing does not count
    personal_data(text)
    repetition(text)
    assert time.thread_time() - start < 2


TEXTS = (
    "I like C++, and c++20 is not C++.",
    "darn  it all: Blithering\nidiot, darn!",
    "No no, NO no. no-no",
    "a b c, a b c! A b c?",
    "nothing of the kind",
    "",
)


@pytest.mark.parametrize("banned", [["c++"], ["darn", "blithering idiot"], ["NO"], ["c", "no no"]])
def test_what_is_flagged_is_what_a_penalty_punishes(banned: list[str]) -> None:
    """Signs at a word's end, phrases over a line break, case: the reward and the check count alike."""
    scores = reward_functions.banned_words(banned)(TEXTS, TEXTS)
    flagged = check_outputs({"ppo": TEXTS}, SafetyChecks(banned=banned, examples=99))["ppo"]["banned"]
    assert [index for index, _ in flagged["examples"]] == [i for i, score in enumerate(scores) if score < 0]
    assert scores == [-sum(banned_words(text, banned).values()) for text in TEXTS]
    assert any(scores)


def test_a_word_that_ends_in_signs_is_punished() -> None:
    assert reward_functions.banned_words(["c++"])(TEXTS, TEXTS)[0] == -2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_repetition_is_measured_and_punished_alike(n: int) -> None:
    """Punctuation between repeated words hides them from neither."""
    assert reward_functions.repetition(n)(TEXTS, TEXTS) == [-repetition(text, n) for text in TEXTS]
    assert reward_functions.repetition(3)(TEXTS, TEXTS)[3] == pytest.approx(-4 / 7)


def test_safety_keeps_counts_and_repeats_no_finding():
    result = finding_shares({"ppo": ["write to a@b.org", "fine"], "reference": ["no", "darn it"]}, ["darn"])
    assert result["ppo"]["personal_data"] == {"count": 1, "share": 0.5}
    assert result["reference"]["banned"] == {"count": 1, "share": 0.5}
    assert "a@b" not in str(result)
