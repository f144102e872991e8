"""Corruptions of values, lengths and encoding, each with its clean twin."""

from planting import COMPS, DEMOS, VOTES, Corruption, asked, both, put, row_3, row_5, say

TEXTS: dict[str, Corruption] = {
    # ---- values
    "prompt null": Corruption("prompt_text", put(DEMOS, 4, prompt=None), put(DEMOS, 4, prompt="0"), row_5),
    "prompt blank": Corruption(
        "prompt_text", put(DEMOS, 4, prompt=" \n\t"), put(DEMOS, 4, prompt="a"), row_5
    ),
    "prompt of a no-break space": Corruption(
        "prompt_text", put(DEMOS, 4, prompt="\u00a0"), put(DEMOS, 4, prompt="\u00a0a")
    ),
    "prompt of wide spaces": Corruption(
        "prompt_text", put(DEMOS, 4, prompt="\u3000\u3000"), put(DEMOS, 4, prompt="\u3000\u5b57")
    ),
    "completion blank": Corruption("completion_text", say(" \n "), say(" \na"), row_5),
    "completion empty": Corruption("completion_text", say(""), say("0"), row_5),
    "a vote's completion empty": Corruption(
        "completion_text", put(VOTES, 2, completion=""), put(VOTES, 2, completion="no")
    ),
    "one of three completions empty": Corruption(
        "completion_text",
        put(COMPS, 2, completions=["a", "", "c"]),
        put(COMPS, 2, completions=["a", "b", "c"]),
        row_3,
    ),
    "one of three completions null": Corruption(
        "completion_text",
        put(COMPS, 2, completions=["a", None, "c"]),
        put(COMPS, 2, completions=["a", "null", "c"]),
    ),
    "a strength of 0": Corruption(
        "strength_bounds", put(COMPS, 2, strength=0), put(COMPS, 2, strength=1), row_3
    ),
    "a strength of 10": Corruption(
        "strength_bounds", put(COMPS, 2, strength=10), put(COMPS, 2, strength=9), row_3
    ),
    "negative seconds": Corruption(
        "seconds_bounds", put(COMPS, 2, seconds=-0.5), put(COMPS, 2, seconds=0), row_3
    ),
    "an id of other content": Corruption(
        "id_of_content", put(DEMOS, 4, id="0123456789abcdef"), put(DEMOS, 4, id=None), row_5
    ),
    "two rows with one id": Corruption(
        "unique_ids",
        both(put(DEMOS, 4, id="7"), put(DEMOS, 5, id="7")),
        both(put(DEMOS, 4, id=None), put(DEMOS, 5, id=None)),
        row_5,
    ),
    "the same demonstration twice": Corruption(
        "unique",
        lambda t: t[DEMOS].append(dict(t[DEMOS][4])),
        lambda t: t[DEMOS].append(t[DEMOS][4] | {"writer_id": "eve"}),
        ("row 13", "the same as row 5"),
    ),
    "the same vote twice": Corruption(
        "unique",
        lambda t: t[VOTES].append(dict(t[VOTES][1])),
        lambda t: t[VOTES].append(t[VOTES][1] | {"labeler_id": "cem"}),
    ),
    "the same row but for white space": Corruption(
        "unique",
        lambda t: t[DEMOS].append(t[DEMOS][4] | {"completion": f"  {t[DEMOS][4]['completion']}\n"}),
        lambda t: t[DEMOS].append(t[DEMOS][4] | {"completion": f"{t[DEMOS][4]['completion']} indeed"}),
    ),
    "one answer alone": Corruption(
        "completions_number",
        put(COMPS, 2, completions=["a", "b", "c"] * 22, ranking=list(range(1, 67))),
        put(COMPS, 2, completions=[f"a{i}" for i in range(64)], ranking=list(range(1, 65))),
    ),
    "more answers than asked for": Corruption(
        "completions_number",
        put(COMPS, 2, completions=list("abcd"), ranking=[1, 2, 3, 4]),
        put(COMPS, 2, completions=list("abc")),
        ("2 to 3 completions",),
        {"validate.thresholds": {"completions_number": 3}},
    ),
    # ---- lengths
    "a prompt too long": Corruption(
        "prompt_length", put(DEMOS, 4, prompt="x" * 4001), put(DEMOS, 4, prompt="x" * 4000), row_5
    ),
    "a completion too long": Corruption("completion_length", say("x" * 2000), say("x" * 1999), row_5),
    "one of three completions too long": Corruption(
        "completion_length",
        put(COMPS, 2, completions=["a", "x" * 2000, "c"]),
        put(COMPS, 2, completions=["a", "x" * 1999, "c"]),
        row_3,
    ),
    "wide characters are characters": Corruption(
        "completion_length", say("\u5b57" * 2000), say("\u5b57" * 1999)
    ),
    "a conversation too long": Corruption(
        "messages_length",
        put(DEMOS, 4, prompt="long", messages=asked("x" * 2000, "y" * 2000, "z")),
        put(DEMOS, 4, prompt="long", messages=asked("x" * 2000, "y" * 1999, "z")),
    ),
    # ---- encoding
    "a replacement character in a prompt": Corruption(
        "prompt_clean", put(DEMOS, 4, prompt="caf\ufffd"), put(DEMOS, 4, prompt="caf\u00e9"), row_5
    ),
    "a control character in a prompt": Corruption(
        "prompt_clean", put(DEMOS, 4, prompt="a\x08b"), put(DEMOS, 4, prompt="a\tb"), row_5
    ),
    "a null byte in a completion": Corruption("completion_clean", say("a\x00b"), say("a0b"), row_5),
    "an escape sequence in a completion": Corruption(
        "completion_clean",
        put(COMPS, 2, completions=["a", "\x1b[31mb", "c"]),
        put(COMPS, 2, completions=["a", "[31mb", "c"]),
        row_3,
    ),
    "a control character of Latin-1": Corruption("completion_clean", say("a\x85b"), say("a\u2026b")),
    "a control character in a conversation": Corruption(
        "messages_clean",
        put(DEMOS, 4, prompt="p", messages=asked("a\x07b")),
        put(DEMOS, 4, prompt="p", messages=asked("a b")),
    ),
    "UTF-8 read as Latin-1": Corruption(
        "encoding",
        say("un caf\u00c3\u00a9 au lait"),
        say("un caf\u00e9 au lait"),
        (*row_5, "save it as UTF-8"),
    ),
    "UTF-8 read as Windows-1252": Corruption("encoding", say("don\u00e2\u20ac\u2122t"), say("don\u2019t")),
    "UTF-8 read as Latin-1, German": Corruption(
        "encoding",
        put(DEMOS, 4, prompt="\u00c3\u00bcber alles Gr\u00c3\u00bc\u00c3\u0178e"),
        put(DEMOS, 4, prompt="\u00fcber alles Gr\u00fc\u00dfe"),
    ),
    "a damaged one of three": Corruption(
        "encoding",
        put(COMPS, 2, completions=["a", "na\u00c3\u00afve", "c"]),
        put(COMPS, 2, completions=["a", "na\u00efve \u65e5\u672c", "c"]),
        row_3,
    ),
    "a damaged turn": Corruption(
        "encoding",
        put(DEMOS, 4, prompt="p", messages=asked("caf\u00c3\u00a9")),
        put(DEMOS, 4, prompt="p", messages=asked("caf\u00e9")),
    ),
    "a damaged euro sign": Corruption("encoding", say("3 \u00e2\u201a\u00ac each"), say("3 \u20ac each")),
}
