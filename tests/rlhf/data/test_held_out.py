"""What is held out, given away by other texts: in whatever spelling, at whatever place."""

from __future__ import annotations

import random

import pyarrow as pa

from rlhf.data.held_out import LEAST, Openings, Runs, without_frame

TEXT = "The harbour was closed for the winter, and no ship came in until the ice broke."
OTHERS = ["The harbour was closed for the winter and it snowed.", "no ship came in until the ice broke", ""]


def test_a_text_within_another_is_met_in_every_spelling() -> None:
    runs = Runs([TEXT])
    spelled = TEXT.upper().replace(" ", "  \\n").replace(",", "").replace("\\n", "\n")
    held = [TEXT, f"Before it.\n\n{spelled} And after it.", f'"{TEXT}"', TEXT[:-1]]
    assert runs.within(held).tolist() == [True] * 4
    assert runs.within(OTHERS).tolist() == [False] * 3
    assert runs.within(["ship", *OTHERS, TEXT, "x"]).tolist() == [False, False, False, False, True, False]
    assert runs.within([]).tolist() == []


def test_a_null_holds_nothing_beside_a_text_with_the_byte_that_parts_texts() -> None:
    runs = Runs([TEXT], [OTHERS[0]])
    column = pa.array([None, f"a\0b {TEXT}", OTHERS[0], None, "", "\u00dc " + TEXT.upper()])
    held = runs.which_within(column.slice(0, 6))
    assert held.tolist() == [
        [False] * 2,
        [True, False],
        [False, True],
        [False] * 2,
        [False] * 2,
        [True, False],
    ]
    assert runs.which_within(column.slice(2, 2)).tolist() == [[False, True], [False] * 2]


def test_short_texts_are_met_by_chance_and_not_looked_for() -> None:
    short = " ".join(f"w{i}" for i in range(LEAST - 1))
    assert not Runs([short, "yes"]).within([short, "yes"]).any()
    assert Runs([f"{short} end"]).within([f"{short} end"]).all()


def test_texts_that_share_their_beginning_are_told_apart() -> None:
    rng = random.Random(1)
    head = "Read the following text and answer the question that stands behind it in one word only:"
    bodies = [" ".join(f"w{rng.randrange(5000)}" for _ in range(rng.randrange(3, 60))) for _ in range(400)]
    texts = [f"{head} {body}" for body in bodies]
    runs = Runs(texts[:200])
    assert runs.within([f"x {text} y" for text in texts]).tolist() == [True] * 200 + [False] * 200


def test_openings_are_exact_and_of_any_length() -> None:
    openings = Openings(["a", "ab", "ax", "b c", "", "q\n1"])
    held = ["a", "abc", "ac", "axe", "b c", "b cd", "q\n1 and more"]
    assert [openings.begin(text) for text in held] == [True] * 7
    assert [openings.begin(text) for text in ["b", "", "A", "cab", "q"]] == [False] * 5
    rng = random.Random(3)
    texts = ["".join(rng.choices("ab", k=rng.randrange(1, 7))) for _ in range(12)]
    for _ in range(500):
        text = "".join(rng.choices("ab", k=rng.randrange(0, 9)))
        assert Openings(texts).begin(text) == any(text.startswith(other) for other in texts)


def test_what_all_prompts_share_is_no_part_of_what_is_held_out() -> None:
    bodies = [f"{n} {TEXT} {n}more" for n in ("One", "And", "But")]
    framed = [f"Please summarise:\n{body}\n\nTL;DR:" for body in bodies]
    assert without_frame(framed) == bodies
    # Letters that all words share by chance belong to their words: the S, and "ends".
    chance = [f"Sea {TEXT} ends", f"Sky {TEXT} sends"]
    assert without_frame([f"Sum up: {text}" for text in chance]) == chance
    assert Runs(without_frame(framed)).within([f"{bodies[0]}\n\nA title", TEXT]).tolist() == [True, False]
    assert without_frame(["Say a", "Say b"]) == ["Say a", "Say b"]  # too little would be left
    assert without_frame([framed[0], framed[0]]) == framed[:1]
    assert without_frame([]) == []
