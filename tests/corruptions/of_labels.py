"""Corruptions of rankings, splits, personal data and labels, each with its clean twin."""

from planting import (
    COMPS,
    DEMOS,
    LONG_REFERENCE,
    TEST_PROMPT,
    VOTES,
    Corruption,
    asked,
    both,
    held_out,
    more,
    pair,
    put,
    rankings,
    row_3,
    row_5,
    say,
    words,
)

LONGER = f"{LONG_REFERENCE} The southern one is deep in spring alone, when the lake above is full of rain."
QUESTION = (
    "How do the fishers of the old town know in spring whether the water of the harbor is deep enough for "
    "their largest boats, and whom do they ask when nobody has looked for some days?"
)
long_held_out = both(held_out, put(DEMOS, 0, completion=LONGER))
LABELS: dict[str, Corruption] = {
    # ---- rankings and direction
    "a ranking too short": Corruption(
        "ranking_dense", put(COMPS, 2, ranking=[1, 2]), put(COMPS, 2, ranking=[1, 2, 3]), row_3
    ),
    "a ranking too long": Corruption(
        "ranking_dense", put(COMPS, 2, ranking=[1, 2, 3, 4]), put(COMPS, 2, ranking=[1, 2, None]), row_3
    ),
    "a text ranked above its copy": Corruption(
        "own_copy",
        put(COMPS, 2, completions=["a", "a", "c"], ranking=[1, 2, 3]),
        put(COMPS, 2, completions=["a", "a", "c"], ranking=[1, 1, 2]),
        row_3,
    ),
    "chosen is rejected but for white space": Corruption(
        "own_copy",
        put(COMPS, 2, completions=["a", " a\n", "c"], ranking=[1, 2, 3]),
        put(COMPS, 2, completions=["a", "A", "c"], ranking=[1, 2, 3]),
        row_3,
    ),
    "preferences turned round against their scores": Corruption(
        "ranking_follows_scores",
        put(COMPS, 2, scores=[0.1, 0.9, 0.9]),
        put(COMPS, 2, scores=[0.9, 0.1, 0.1]),
        (*row_3, "ingest.direction"),
    ),
    "one score turned round of three": Corruption(
        "ranking_follows_scores",
        put(COMPS, 2, ranking=[1, 2, 3], scores=[3, 1, 2]),
        put(COMPS, 2, ranking=[1, 2, 3], scores=[3, 2, 2]),
    ),
    "a score missing": Corruption(
        "scores_fit", put(COMPS, 2, scores=[1, 2]), put(COMPS, 2, scores=None), row_3
    ),
    "a preference where both are bad": Corruption(
        "both_bad_is_a_tie",
        put(COMPS, 2, both_bad=True),
        put(COMPS, 2, both_bad=True, ranking=[1, 1, 1]),
        row_3,
    ),
    "a policy missing": Corruption(
        "policies_fit", put(COMPS, 2, policies=["a", "b"]), put(COMPS, 2, policies=["a", "b", "c"]), row_3
    ),
    "a policy null": Corruption(
        "policies_fit",
        put(COMPS, 2, policies=["a", None, "c"]),
        put(COMPS, 2, policies=["a", "", "c"]),
        row_3,
    ),
    "a shown order from 1": Corruption(
        "shown_order_fits", put(COMPS, 2, shown_order=[1, 2, 3]), put(COMPS, 2, shown_order=[0, 1, 2]), row_3
    ),
    "a shown order with a place twice": Corruption(
        "shown_order_fits", put(COMPS, 2, shown_order=[0, 0, 1]), put(COMPS, 2, shown_order=[]), row_3
    ),
    "a shown order too short": Corruption(
        "shown_order_fits", put(COMPS, 2, shown_order=[1, 0]), put(COMPS, 2, shown_order=[1, 0, 2])
    ),
    # ---- splits and leakage
    "a prompt in two splits": Corruption(
        "one_split",
        lambda t: t[DEMOS].append(t[DEMOS][6] | {"completion": "another", "split": "test"}),
        lambda t: t[DEMOS].append(t[DEMOS][6] | {"completion": "another", "split": None}),
        ("row 7", "test and train"),
    ),
    "a prompt in two splits across tables": Corruption(
        "one_split", put(COMPS, 2, split="test"), put(COMPS, 2, split="train"), ("row 6", "test and train")
    ),
    "a voted prompt in two splits": Corruption(
        "one_split", put(VOTES, 2, split="test"), put(VOTES, 2, split=None)
    ),
    "no test split": Corruption(
        "splits_have_rows",
        lambda t: [row.update(split="train") for row in t[DEMOS] if row["split"] == "test"] and None,
        lambda t: None,
        ("missing: test", "prepare.test_share"),
    ),
    "two prompts with a word changed": Corruption(
        "near_duplicate_prompt",
        both(put(DEMOS, 4, prompt=QUESTION), put(DEMOS, 5, prompt=QUESTION.replace("deep", "shallow"))),
        both(put(DEMOS, 4, prompt=QUESTION), put(DEMOS, 5, prompt=QUESTION[:60])),
        ("near to that of prompt 5", "quarantine"),
    ),
    "two prompts that only differ in case": Corruption(
        "near_duplicate_prompt",
        both(put(DEMOS, 4, prompt=QUESTION), put(DEMOS, 5, prompt=QUESTION.upper())),
        both(put(DEMOS, 4, prompt=QUESTION), put(DEMOS, 5, prompt=QUESTION)),
    ),
    "a test prompt in training with a word changed": Corruption(
        "near_prompt_held_out",
        both(
            put(DEMOS, 0, prompt=QUESTION, split="test"),
            put(DEMOS, 5, prompt=QUESTION.replace("deep", "shallow"), split="train"),
        ),
        both(
            put(DEMOS, 0, prompt=QUESTION, split="test"),
            put(DEMOS, 5, prompt=QUESTION[:60], split="train"),
        ),
        ("row 6 of demonstrations.jsonl", "of split train, near to one of split test"),
    ),
    "a demonstration with a word changed": Corruption(
        "near_duplicate_demonstration",
        both(
            put(DEMOS, 4, prompt=QUESTION, completion=LONGER),
            put(
                DEMOS, 5, prompt=QUESTION.replace("deep", "shallow"), completion=LONGER.replace("rain", "ice")
            ),
        ),
        both(
            put(DEMOS, 4, prompt=QUESTION, completion=LONGER),
            put(DEMOS, 5, prompt=QUESTION.replace("deep", "shallow"), completion=LONGER[:70]),
        ),
        ("row 6 of demonstrations.jsonl",),
    ),
    "an answer to the same prompt with a word changed": Corruption(
        "near_duplicate_demonstration",
        both(
            put(DEMOS, 4, prompt=QUESTION, completion=LONGER),
            put(DEMOS, 6, prompt=QUESTION, completion=LONGER.replace("rain", "ice")),
        ),
        both(
            put(DEMOS, 4, prompt=QUESTION, completion=LONGER),
            put(DEMOS, 6, prompt=QUESTION[:60], completion=LONGER.replace("rain", "ice")),
        ),
        ("row 7 of demonstrations.jsonl",),
    ),
    "a test prompt within a training prompt": Corruption(
        "leaked_prompt",
        both(held_out, put(DEMOS, 4, prompt=f"Answer shortly: {TEST_PROMPT}")),
        both(held_out, put(DEMOS, 4, prompt="Which of the two harbors has the deeper water?")),
        row_5,
    ),
    "a test prompt in capitals within a comparison": Corruption(
        "leaked_prompt",
        both(held_out, put(COMPS, 2, prompt=f"Please. {TEST_PROMPT.upper()}", split="train")),
        both(held_out, put(COMPS, 2, prompt="Please. Which harbors?")),
        row_3,
    ),
    "a test reference as an answer to train on": Corruption(
        "leaked_reference",
        both(held_out, say(LONG_REFERENCE)),
        both(held_out, say(LONG_REFERENCE.replace("sand", "mud"))),
        row_5,
    ),
    "a test reference among the ranked": Corruption(
        "leaked_reference",
        both(held_out, put(COMPS, 2, completions=["a", f" {LONG_REFERENCE.lower()}", "c"])),
        both(held_out, put(COMPS, 2, completions=["a", "b", "c"])),
        row_3,
    ),
    "a test reference within a longer answer": Corruption(
        "leaked_reference",
        both(held_out, say(f"Well. {LONG_REFERENCE} So much for that.")),
        both(
            held_out, say("Well. The northern harbor, since the river fills it with sand. So much for that.")
        ),
        row_5,
    ),
    "a test reference in other punctuation within a vote's answer": Corruption(
        "leaked_reference",
        both(held_out, put(VOTES, 2, completion=f"I say:\n{LONG_REFERENCE.replace(',', ';').upper()}!")),
        both(held_out, put(VOTES, 2, completion=f"I say: {LONG_REFERENCE[:30]}")),
        ("row 3 of votes.jsonl",),
    ),
    "a test prompt within an answer": Corruption(
        "leaked_prompt_in_answer",
        both(held_out, say(f"You ask: {TEST_PROMPT} I do not know.")),
        both(held_out, say("You ask which of the two harbors has the deeper water. I do not know.")),
        row_5,
    ),
    "a test prompt in a turn that the prompt text leaves out": Corruption(
        "leaked_prompt",
        both(held_out, put(DEMOS, 4, prompt="p", messages=asked("Hello.", "Hello!", f"So: {TEST_PROMPT}"))),
        both(held_out, put(DEMOS, 4, prompt="p", messages=asked("Hello.", "Hello!", TEST_PROMPT[:40]))),
        row_5,
    ),
    "a test reference with a word changed": Corruption(
        "near_reference",
        both(long_held_out, say(LONGER.replace("northern", "outer"))),
        both(long_held_out, say(LONGER.replace("northern harbor", "old town").replace("deep", "dry"))),
        row_5,
    ),
    "a test reference with a word changed among the ranked": Corruption(
        "near_reference",
        both(long_held_out, put(COMPS, 2, completions=["a", LONGER.replace("it ", "all "), "c"])),
        both(long_held_out, put(COMPS, 2, completions=["a", LONGER[:70], "c"])),
        row_3,
    ),
    # ---- personal data
    "an e-mail address": Corruption(
        "personal_data",
        say("write to jane.doe@example.org today"),
        say("write to jane at example today"),
        (*row_5, "e-mail ja\u00b7"),
    ),
    "a phone number": Corruption(
        "personal_data", say("call +49 30 1234567 now"), say("call 1234567 now"), (*row_5, "phone")
    ),
    "a phone number in groups": Corruption(
        "personal_data", say("call (555) 123-4567"), say("pages 555 to 567")
    ),
    "a card number": Corruption(
        "personal_data", say("card 4111 1111 1111 1111"), say("card 4111 1111 1111 1112"), (*row_5, "card 41")
    ),
    "an IBAN": Corruption(
        "personal_data",
        say("to DE89 3704 0044 0532 0130 00"),
        say("to DE88 3704 0044 0532 0130 00"),
        (*row_5, "iban"),
    ),
    "an IP address": Corruption(
        "personal_data", say("host 93.184.216.34"), say("host 127.0.0.1"), (*row_5, "ip address")
    ),
    "a key": Corruption(
        "personal_data", say("sk-proj-abcdefghijklmnopqrstuvwx"), say("sk-proj"), (*row_5, "key sk")
    ),
    "a token of a code host": Corruption(
        "personal_data", say("ghp_" + "a1B2" * 9), say("ghp_short"), ("key gh",)
    ),
    "a private key": Corruption(
        "personal_data", say("-----BEGIN RSA PRIVATE KEY-----"), say("-----BEGIN CERTIFICATE-----")
    ),
    "an e-mail address in a prompt": Corruption(
        "personal_data", put(DEMOS, 4, prompt="who is a.b@c.de?"), put(DEMOS, 4, prompt="who is @c?")
    ),
    "a phone number among the ranked": Corruption(
        "personal_data",
        put(COMPS, 2, completions=["a", "+1 (212) 555-0100", "c"]),
        put(COMPS, 2, completions=["a", "+1", "c"]),
        row_3,
    ),
    "an e-mail address in a turn": Corruption(
        "personal_data",
        put(DEMOS, 4, prompt="p", messages=asked("a.b@c.de")),
        put(DEMOS, 4, prompt="p", messages=asked("a.b@c")),
    ),
    "an e-mail address in a vote": Corruption(
        "personal_data", put(VOTES, 2, completion="a.b@c.de"), put(VOTES, 2, completion="a.b")
    ),
    # ---- answers that say something again
    "an answer that loops": Corruption(
        "completion_loops",
        say("It is fine. " + "And so it goes on and on. " * 8),
        say("It is fine. " + "And so it goes on and on. " * 2),
        row_5,
    ),
    "an answer with its prompt": Corruption(
        "completion_without_prompt",
        put(
            DEMOS,
            4,
            prompt="Where do the cranes rest on their way to the south?",
            completion="Where do the cranes rest on their way to the south? In the marsh.",
        ),
        put(
            DEMOS,
            4,
            prompt="Where do the cranes rest on their way to the south?",
            completion="They rest in the marsh.",
        ),
        row_5,
    ),
    # ---- labels
    "labelers without a name": Corruption(
        "labeler_known", put(COMPS, 2, labeler_id=None), put(COMPS, 2, labeler_id="7"), row_3
    ),
    "a labeler who always takes the first": Corruption(
        "constant_labeler",
        rankings(
            40,
            lambda i: (
                pair(i, first=0)
                | {"labeler_id": "al" if i < 20 else f"l{i % 3}"}
                | ({} if i < 20 else {"shown_order": [i // 3 % 2, 1 - i // 3 % 2]})
            ),
        ),
        rankings(40, lambda i: pair(i, first=i // 3 % 2) | {"labeler_id": f"l{i % 3}"}),
        ("'al'", "shown first"),
    ),
    "a labeler who always takes the last": Corruption(
        "constant_labeler",
        rankings(30, lambda i: pair(i, first=1) | {"labeler_id": "al"}),
        rankings(30, lambda i: pair(i, first=i % 2) | {"labeler_id": "al"}),
        ("shown last",),
    ),
    "a labeler of ties": Corruption(
        "constant_labeler",
        rankings(20, lambda i: pair(i) | {"labeler_id": "al", "ranking": [1, 1]}),
        rankings(20, lambda i: pair(i) | {"labeler_id": "al", "ranking": [1, 1 + (i == 3)]}),
        ("a tie",),
    ),
    "the same pair both ways": Corruption(
        "contradiction",
        more(
            COMPS,
            {"prompt": "q", "completions": ["x", "y"], "ranking": [1, 2], "labeler_id": "al"},
            {"prompt": "q", "completions": ["y", "x"], "ranking": [1, 2], "labeler_id": "al"},
        ),
        more(
            COMPS,
            {"prompt": "q", "completions": ["x", "y"], "ranking": [1, 2], "labeler_id": "al"},
            {"prompt": "q", "completions": ["y", "x"], "ranking": [1, 2], "labeler_id": "bo"},
        ),
        ("row 6 of comparisons.jsonl", "'al'"),
    ),
    "a circle of three": Corruption(
        "contradiction",
        more(
            COMPS,
            *(
                {"prompt": "q", "completions": [*p], "ranking": [1, 2], "labeler_id": "al"}
                for p in ("xy", "yz", "zx")
            ),
        ),
        more(
            COMPS,
            *(
                {"prompt": "q", "completions": [*p], "ranking": [1, 2], "labeler_id": "al"}
                for p in ("xy", "yz", "xz")
            ),
        ),
        ("3 rows",),
    ),
    "mostly ties": Corruption(
        "ties",
        rankings(40, lambda i: pair(i) | {"ranking": [1, 1 if i < 30 else 2]}),
        rankings(40, lambda i: pair(i) | {"ranking": [1, 1 if i < 20 else 2]}),
        ("30 of 40 rankings",),
    ),
    "the longer answer wins": Corruption(
        "length_preference",
        rankings(60, lambda i: pair(i, better=words(i, 9), worse=words(900 + i, 3))),
        rankings(
            60, lambda i: pair(i, better=words(i, 9 - 6 * (i % 2)), worse=words(900 + i, 3 + 6 * (i % 2)))
        ),
        ("100%", "of 60 pairs"),
    ),
    "the answer shown first wins": Corruption(
        "position_preference",
        rankings(60, lambda i: pair(i, first=int(i % 10 == 0))),
        rankings(60, lambda i: pair(i, first=i % 2)),
        ("90%", "of 60 pairs"),
    ),
    "labelers who agree like coins": Corruption(
        "agreement",
        rankings(
            160,
            lambda i: {
                "prompt": f"q{i // 2}",
                "labeler_id": f"l{i % 2}",
                "completions": ["x", "y"] if i % 2 == 0 or i % 8 < 4 else ["y", "x"],
                "ranking": [1, 2],
            },
        ),
        rankings(
            160,
            lambda i: {
                "prompt": f"q{i // 2}",
                "labeler_id": f"l{i % 2}",
                "completions": ["x", "y"],
                "ranking": [1, 2],
            },
        ),
        ("of 80 pairs",),
        {"validate.thresholds": {"agreement": 0.65}},
    ),
}
