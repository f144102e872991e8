"""Files in the layouts that people have: rows in the true columns of each, with text of our own."""

from __future__ import annotations

from typing import Any

TASKS = ("dry herbs", "mend a bag", "boil rice", "fold a map", "clean a pan", "plant peas")
ASK = tuple(f"How do I {task}?" for task in TASKS)
GOOD = tuple(f"First look, then {task} slowly." for task in TASKS)
BAD = tuple(f"Just {task} somehow." for task in TASKS)
FIVE = range(5)

Records = list[dict[str, Any]]


def user(text: str) -> dict[str, str]:
    """A turn of the user's."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """A turn of the assistant's."""
    return {"role": "assistant", "content": text}


def human(i: int, answer: str, front: str = "") -> str:
    """A transcript as hh-rlhf writes it."""
    return f"{front}\n\nHuman: {ASK[i]}\n\nAssistant: {answer}"


def _turned(i: int) -> list[str]:
    """The two answers, the better second in every other row."""
    return [GOOD[i], BAD[i]] if i % 2 == 0 else [BAD[i], GOOD[i]]


def _message(name: str, parent: str | None, text: str, role: str, rank: Any, tree: str) -> dict[str, Any]:
    beside = {"user_id": "u", "created_date": "2024-01-01", "lang": "en", "deleted": False, "labels": None}
    ids = {"message_id": name, "parent_id": parent, "message_tree_id": tree}
    return ids | {"text": text, "role": role, "rank": rank} | beside


def _tree(i: int) -> Records:
    root = _message(f"m{i}", None, ASK[i], "prompter", None, f"m{i}")
    replies = [
        _message(f"m{i}{n}", f"m{i}", text, "assistant", rank, f"m{i}")
        for n, (text, rank) in enumerate(((BAD[i], 1), (GOOD[i], 0), ("Ask again.", None)))
    ]
    return [root, *replies]


def _nested(i: int) -> dict[str, Any]:
    deep = [
        {"text": "Slowly.", "role": "assistant", "rank": 1, "replies": []},
        {"text": "With care.", "role": "assistant", "rank": 0, "replies": []},
    ]
    more = {"text": "How slowly?", "role": "prompter", "rank": None, "replies": deep}
    replies = [
        {"text": BAD[i], "role": "assistant", "rank": 1, "replies": []},
        {"text": GOOD[i], "role": "assistant", "rank": 0, "replies": [more]},
    ]
    return {
        "message_tree_id": f"t{i}",
        "prompt": {"text": ASK[i], "role": "prompter", "replies": replies},
    }


WINNERS = ("model_a", "model_b", "tie", "tie (bothbad)", "model_a")
PREFERRED = (-3, 2, 0, -1, 1)

# name of the file -> (layout, records)
FIXTURES: dict[str, tuple[str, Records]] = {
    "trl-explicit": ("pairs", [{"prompt": ASK[i], "chosen": GOOD[i], "rejected": BAD[i]} for i in FIVE]),
    "trl-margin": (
        "pairs",
        [{"prompt": ASK[i], "chosen": GOOD[i], "rejected": BAD[i], "margin": i / 2} for i in FIVE],
    ),
    "trl-explicit-messages": (
        "pairs",
        [
            {"prompt": [user(ASK[i])], "chosen": [assistant(GOOD[i])], "rejected": [assistant(BAD[i])]}
            for i in FIVE
        ],
    ),
    "trl-implicit-messages": (
        "pairs",
        [
            {
                "chosen": [user(ASK[i]), assistant(GOOD[i])],
                "rejected": [user(ASK[i]), assistant(BAD[i])],
            }
            for i in FIVE
        ],
    ),
    "trl-implicit-text": (
        "pairs",
        [{"chosen": f"{ASK[i]} {GOOD[i]}", "rejected": f"{ASK[i]} {BAD[i]}"} for i in FIVE],
    ),
    "ultrafeedback-binarized": (
        "pairs",
        [
            {
                "prompt": ASK[i],
                "prompt_id": f"{i:032x}",
                "chosen": [user(ASK[i]), assistant(GOOD[i])],
                "rejected": [user(ASK[i]), assistant(BAD[i])],
                "messages": [user(ASK[i]), assistant(GOOD[i])],
                "score_chosen": 8.5,
                "score_rejected": 8.5 if i == 2 else 6.0,
            }
            for i in FIVE
        ],
    ),
    "kto": (
        "votes",
        [{"prompt": ASK[i], "completion": _turned(i)[0], "label": i % 2 == 0} for i in FIVE],
    ),
    "hh-rlhf": ("transcripts", [{"chosen": human(i, GOOD[i]), "rejected": human(i, BAD[i])} for i in FIVE]),
    "nectar": (
        "answers",
        [
            {
                "prompt": f"\n\nHuman: {ASK[i]}\n\nAssistant: ",
                "answers": [
                    {"answer": f"{GOOD[i]} {n}", "model": f"m{n}", "rank": rank}
                    for n, rank in enumerate((2.0, 1.0, 3.0, 7.0, 5.0, 6.0, 4.0))
                ],
                "turns": 1,
                "num_responses": 7,
                "source": ["web"],
                "good_natured": True,
            }
            for i in FIVE
        ],
    ),
    "ultrafeedback": (
        "answers",
        [
            {
                "source": "flan",
                "instruction": ASK[i],
                "models": ["m1", "m2", "m3"],
                "completions": [
                    {
                        "model": f"m{n + 1}",
                        "response": f"{GOOD[i]} {n}",
                        "overall_score": score,
                        "annotations": {
                            "helpfulness": {"Rating": str(5 - n), "Rationale": "."},
                            "honesty": {"Rating": "N/A" if i == 4 and n == 2 else str(n + 1)},
                        },
                    }
                    for n, score in enumerate((4.0, 8.5, 4.0))
                ],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            }
            for i in FIVE
        ],
    ),
    "helpsteer2": (
        "rated-answers",
        [
            {"prompt": ASK[i], "response": text, "helpfulness": helpful, "correctness": 3, "coherence": 4}
            | {"complexity": 1, "verbosity": verbose}
            for i in FIVE
            for text, helpful, verbose in ((BAD[i], 3 if i == 2 else 1, 0), (GOOD[i], 3, 4))
        ],
    ),
    "helpsteer3": (
        "helpsteer3",
        [
            {
                "domain": "general",
                "language": "english",
                "context": [user(ASK[i])],
                "response1": _turned(i)[0],
                "response2": _turned(i)[1],
                "overall_preference": PREFERRED[i],
                "individual_preference": [{"score": PREFERRED[i], "reasoning": "clear"}],
            }
            for i in FIVE
        ],
    ),
    "shp": (
        "shp",
        [
            {
                "post_id": f"p{i}",
                "domain": f"askhome_{'test' if i == 4 else 'train'}",
                "upvote_ratio": 0.9,
                "history": ASK[i],
                "score_A": 10 if i % 2 == 0 else 4,
                "score_B": 4 if i % 2 == 0 else 10,
                "human_ref_A": _turned(i)[0],
                "human_ref_B": _turned(i)[1],
                "labels": 1 if i % 2 == 0 else 0,
                "seconds_difference": 5.0,
                "score_ratio": 2.5,
            }
            for i in FIVE
        ],
    ),
    "webgpt": (
        "webgpt",
        [
            {
                "question": {"dataset": "eli5", "id": f"q{i}", "full_text": ASK[i]},
                "quotes_0": {"title": ["t"], "extract": ["e"]},
                "answer_0": _turned(i)[0],
                "tokens_0": {"prefix": [1], "completion": [2]},
                "score_0": 0.0 if i == 2 else 0.5 if i % 2 == 0 else -0.5,
                "answer_1": _turned(i)[1],
                "score_1": 0.0 if i == 2 else -0.5 if i % 2 == 0 else 0.5,
            }
            for i in FIVE
        ],
    ),
    "summarize-comparisons": (
        "summary-pairs",
        [
            {
                "info": {"id": f"t3_{i}", "post": ASK[i], "title": "A question", "subreddit": "home"},
                "summaries": [
                    {"text": f" {_turned(i)[0]}", "policy": "ref", "note": None},
                    {"text": f" {_turned(i)[1]}", "policy": "sup4", "note": None},
                ],
                "choice": i % 2,
                "worker": f"w{i}",
                "batch": "batch9",
                "split": ("train", "train", "valid1", "valid2", "train")[i],
                "extra": {"confidence": (8, 1, 9, None, 5)[i]},
            }
            for i in FIVE
        ],
    ),
    "summarize-axis": (
        "summary-ratings",
        [
            {
                "info": {"id": f"a{i}", "site": "x", "title": "T", "article": ASK[i]},
                "split": "test",
                "summary": {"text": text, "policy": policy, "note": "", "axes": axes},
                "worker": "w1",
                "batch": "c1",
            }
            for text_of, policy, axes in (
                (BAD, "sup4", {"overall": 3, "accuracy": 7, "coverage": 4, "coherence": 6}),
                (GOOD, "ref", {"overall": 5, "accuracy": 2, "coverage": 4, "coherence": 6}),
            )
            for i in FIVE
            for text in (text_of[i],)
        ],
    ),
    "pku": (
        "pku",
        [
            {
                "prompt": ASK[i],
                "response_0": _turned(i)[0],
                "response_1": _turned(i)[1],
                "is_response_0_safe": True,
                "is_response_1_safe": False,
                "better_response_id": i % 2,
                "safer_response_id": 0,
            }
            for i in FIVE
        ],
    ),
    "arena": (
        "arena",
        [
            {
                "question_id": f"{i:032x}",
                "model_a": "alpha",
                "model_b": "beta",
                "winner": WINNERS[i],
                "judge": f"user_{i}",
                "conversation_a": [user(ASK[i]), assistant(GOOD[i])],
                "conversation_b": [user(ASK[i]), assistant(BAD[i])],
                "turn": 1,
                "anony": True,
                "language": "English",
                "tstamp": 1700000000.0,
            }
            for i in FIVE
        ],
    ),
    "oasst": ("message-trees", [message for i in FIVE for message in _tree(i)]),
    "oasst-nested": ("nested-trees", [_nested(i) for i in FIVE]),
    "llama-factory-alpaca": (
        "instruction-pairs",
        [{"instruction": ASK[i], "input": "", "chosen": GOOD[i], "rejected": BAD[i]} for i in FIVE],
    ),
    "llama-factory-sharegpt": (
        "conversation-pairs",
        [
            {
                "conversations": [{"from": "human", "value": ASK[i]}],
                "chosen": {"from": "gpt", "value": GOOD[i]},
                "rejected": {"from": "gpt", "value": BAD[i]},
            }
            for i in FIVE
        ],
    ),
    "llama-factory-kto": (
        "thumbs",
        [{"instruction": ASK[i], "input": "", "output": _turned(i)[0], "kto_tag": i % 2 == 0} for i in FIVE],
    ),
    "axolotl-response": (
        "instruction-pairs",
        [{"instruction": ASK[i], "chosen_response": GOOD[i], "rejected_response": BAD[i]} for i in FIVE],
    ),
    "axolotl-question": (
        "instruction-pairs",
        [{"system": "Be brief.", "question": ASK[i], "chosen": GOOD[i], "rejected": BAD[i]} for i in FIVE],
    ),
    "axolotl-input": (
        "instruction-pairs",
        [{"input": ASK[i], "chosen": GOOD[i], "rejected": BAD[i]} for i in FIVE],
    ),
    "nemo-rl": (
        "answers",
        [
            {
                "context": [user(ASK[i])],
                "completions": [
                    {"rank": 1, "completion": [assistant(BAD[i])]},
                    {"rank": 0, "completion": [assistant(GOOD[i])]},
                    {"rank": 1 if i == 2 else 2, "completion": [assistant("No.")]},
                ],
            }
            for i in FIVE
        ],
    ),
    "swift-response": (
        "swift-pairs",
        [
            {"messages": [user(ASK[i]), assistant(GOOD[i])], "rejected_response": BAD[i], "margin": 0.5}
            for i in FIVE
        ],
    ),
    "swift-messages": (
        "swift-pairs",
        [
            {
                "messages": [user(ASK[i]), assistant(GOOD[i])],
                "rejected_messages": [user(ASK[i]), assistant(BAD[i])],
            }
            for i in FIVE
        ],
    ),
    "swift-kto": (
        "labeled-conversations",
        [{"messages": [user(ASK[i]), assistant(_turned(i)[0])], "label": i % 2 == 0} for i in FIVE],
    ),
    "openai-messages": (
        "conversations",
        [
            {"messages": [{"role": "system", "content": "Be brief."}, user(ASK[i]), assistant(GOOD[i])]}
            for i in FIVE
        ],
    ),
    "sharegpt": (
        "conversations",
        [
            {
                "id": str(i),
                "conversations": [{"from": "human", "value": ASK[i]}, {"from": "gpt", "value": GOOD[i]}],
            }
            for i in FIVE
        ],
    ),
    "alpaca": (
        "instructions",
        [
            {
                "instruction": ASK[i],
                "input": "" if i else "At home.",
                "output": GOOD[i],
                "text": f"Below: {i}",
            }
            for i in FIVE
        ],
    ),
    "prompt-response": ("instructions", [{"prompt": ASK[i], "response": GOOD[i]} for i in FIVE]),
    "question-answer": ("instructions", [{"question": ASK[i], "answer": GOOD[i]} for i in FIVE]),
    "plain-text": ("corpus", [{"text": GOOD[i]} for i in FIVE]),
    "prompts": ("prompts", [{"prompt": ASK[i]} for i in FIVE]),
    "parallel-scores": (
        "parallel-lists",
        [{"prompt": ASK[i], "responses": [BAD[i], GOOD[i], "No."], "scores": [1, 4.5, 1]} for i in FIVE],
    ),
    "parallel-people": (
        "parallel-lists",
        [
            {
                "prompt": ASK[i],
                "completions": [BAD[i], GOOD[i]],
                "rankings": [[2, 1], [1, 1]],
                "annotators": ["ann", 7],
            }
            for i in FIVE
        ],
    ),
    "hand-verdict": (
        "table",
        [
            {"Prompt": ASK[i], "Response A": _turned(i)[0], "Response B": _turned(i)[1], "Preference": said}
            for i, said in enumerate(("A", "B", "tie", "both bad", "Response A"))
        ],
    ),
    "hand-ranks": (
        "table",
        [
            {"question": ASK[i], "answer_1": BAD[i], "answer_2": GOOD[i], "answer_3": "No."}
            | {"rank_1": "2", "rank_2": "1", "rank_3": "2"}
            for i in FIVE
        ],
    ),
    "hand-people": (
        "table",
        [
            {
                "prompt": ASK[i],
                "answer_1": BAD[i],
                "answer_2": GOOD[i],
                "annotator_1": "2",
                "annotator_2": "1",
            }
            for i in FIVE
        ],
    ),
    "scitldr": (
        "scitldr",
        [
            {
                "source": [ASK[i], GOOD[i]],
                "source_labels": [0, 1],
                "rouge_scores": [0.1, 0.2],
                "paper_id": f"x{i}",
                "target": [f"On how to {TASKS[i]}.", "A note."],
                "title": "T",
            }
            for i in FIVE
        ],
    ),
    "cnndm": (
        "rated-summaries",
        [
            {"id": f"{i:06d}", "ref": GOOD[i], "sys_name": name, "sys_summ": text, "summ_id": n, "rank": n}
            | {"scores": {"edit": edit, "overall": overall, "grammar": 0.5}}
            for i in FIVE
            for n, (name, text, overall, edit) in enumerate(
                (
                    ("reference", GOOD[i], 0.4, GOOD[i]),
                    ("ml", BAD[i], -0.6, f"{BAD[i]} Slowly."),
                    ("pointer", "Look.", 0.4, None),
                    ("seq2seq", "Look twice.", 1.0, "Look twice."),
                )
            )
        ],
    ),
    "lqual": (
        "ratings-without-texts",
        [
            {"id": f"{i}", "system": "ml", "annotators": [1], "prompts": {"overall": {"human": [0]}}}
            for i in FIVE
        ],
    ),
    "qa-feedback": (
        "qa-feedback",
        [
            {
                "question": ASK[i],
                "passages": [["Homes", "Look first."]],
                "gold": GOOD[i],
                "preference": [1, 1, 1, 0, 1, 1] if i else [1, 0, 1, 1, 1, 0],
                "feedback": {"errors": [], "missing-info": [], "corrected-prediction": "Look, then do it."},
                **{f"prediction {n}": f"answer {n}" for n in range(1, 5)},
            }
            for i in FIVE
        ],
    ),
    "contract-comparisons": (
        "comparisons",
        [
            {"prompt": ASK[i], "completions": [BAD[i], GOOD[i], "No."], "ranking": ranking, "labeler_id": i}
            for i, ranking in enumerate(([2, 1, 3], [1.5, 1.5, 3], [4, 1, 2], [1, 0, 1], [2, 1, None]))
        ],
    ),
    "contract-demonstrations": ("demonstrations", [{"prompt": ASK[i], "completion": GOOD[i]} for i in FIVE]),
}
