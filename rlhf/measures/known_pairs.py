"""Pairs of texts of which the better one is known: what a judge is asked before it is believed.

There are two sources: `controls` sets references against texts that are surely worse, and `labelled_pairs`
takes the pairs that labelers ordered.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.rankings import pairs as ordered

_CONTROLS = (
    "shuffled words",
    "another prompt's reference",
    "cut in half",
    "repeated words",
    "random words",
)


@dataclass(frozen=True)
class KnownPair:
    """Two texts of which one is known to be better.

    Attributes:
        prompt: what both answer.
        better, worse: the texts.
        reference: which of the two is the reference, `better` or `worse`; None where neither is.
    """

    prompt: str
    better: str
    worse: str
    reference: str | None = None


def controls(references: Sequence[Mapping[str, Any]], seed: int) -> dict[str, list[KnownPair]]:
    """Each reference against texts that are surely worse than it is: kind of control -> pairs.

    | kind | the worse text |
    |---|---|
    | shuffled words | the reference's own words in another order |
    | another prompt's reference | fluent, and about something else |
    | cut in half | the first half of the reference |
    | repeated words | the first third of the reference, again and again, as long as the reference |
    | random words | words drawn from all references, as many as the longest has: length alone must not win |

    Words are separated by white space; a text of fewer than four such words is taken apart into characters. A
    prompt for which no such text can be made (one word, all references alike) is left out.

    Args:
        references: with `prompt` and `completion`, one a prompt.
        seed: of everything drawn at random.
    """
    texts = [row["completion"] for row in references]
    parts = [_split(text) for text in texts]
    distinct = list(dict.fromkeys(texts))
    pool = [word for words, _ in parts for word in words]
    longest = max((len(words) for words, _ in parts), default=0)
    pairs: dict[str, list[KnownPair]] = {name: [] for name in _CONTROLS}
    for row, text, (words, gaps) in zip(references, texts, parts, strict=True):
        rng = random.Random(f"control/{seed}/{row['prompt']}")
        drawn = rng.sample(distinct, min(2, len(distinct)))
        third = words[: max(1, len(words) // 3)]
        worse = {
            "shuffled words": _join(rng.sample(words, len(words)), gaps),
            "another prompt's reference": next((other for other in drawn if other != text), text),
            "cut in half": _join(words[: len(words) // 2], gaps),
            "repeated words": _join((third * (len(words) // len(third) + 1))[: len(words)], gaps),
            "random words": " ".join(rng.choices(pool, k=longest)),
        }
        for name, spoilt in worse.items():
            if spoilt.strip() and spoilt.split() != text.split():
                start = text[: len(text) - len(text.lstrip())]  # a space, where texts begin with one
                pairs[name].append(KnownPair(row["prompt"], text, start + spoilt.strip(), "better"))
    return {name: of_kind for name, of_kind in pairs.items() if of_kind}


def labelled_pairs(rankings: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> list[KnownPair]:
    """The pairs that labelers ordered in the rankings of these splits, ties left out.

    Args:
        rankings: rows of the contract COMPARISON; `policies` says which text is the `reference`.
        splits: those whose prompts trained neither the judge nor the reward model.
    """
    known = []
    for row in rankings:
        if row["split"] not in splits:
            continue
        texts = row["completions"]
        sources = row.get("policies") or [None] * len(texts)
        for i, j in sorted(ordered(row["ranking"])):
            side = {sources[i]: "better", sources[j]: "worse"}.get("reference")
            known.append(KnownPair(row["prompt"], texts[i], texts[j], side))
    return known


def labelers_of(rankings: Sequence[Mapping[str, Any]]) -> str:
    """Who ranked, as a text: programs are not called people."""
    sources = {row.get("source") for row in rankings}
    programs = {"simulated": "simulated labelers", "references": "references, which nobody ranked"}
    return programs.get(str(sources.pop()), "people") if len(sources) == 1 else "people"


def one_per_prompt(pairs: Sequence[KnownPair], most: int, seed: int) -> list[KnownPair]:
    """At most `most` pairs, drawn at random, no two of one prompt: for a judge that costs money."""
    rng = random.Random(f"labelled/{seed}")
    by_prompt: dict[str, list[KnownPair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    drawn = [rng.choice(same_prompt) for same_prompt in by_prompt.values()]
    return rng.sample(drawn, min(most, len(drawn)))


def _split(text: str) -> tuple[list[str], list[str]]:
    """The words of a text, and the gaps between them."""
    parts = re.split(r"(\s+)", text.strip())
    if len(parts) < 7:  # fewer than four words: a script without spaces, or a short answer
        return list(text.strip()), [""] * (len(text.strip()) - 1)
    return parts[::2], parts[1::2]


def _join(words: Sequence[str], gaps: Sequence[str]) -> str:
    return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=False))
