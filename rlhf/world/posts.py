"""Posts of the built-in task: typed facts about one person, among filler and decoys.

A post reads `SUBREDDIT / TITLE / POST / TL;DR:`. The title names the person and the deed (and sometimes
one fact more); one sentence of the body states the linked facts together. In a share of the posts a
*decoy* sentence says the same kind of thing about another person, so a summariser must bind facts to the
person of the title and cannot copy by type alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rlhf.world.lexicon import FACT_TYPES, FILLER, PHRASES, SUBREDDIT_OF_ASK


@dataclass(frozen=True)
class Post:
    """One post: its text up to and including `TL;DR:`, its true facts, and the decoys it also states.

    Attributes:
        text: the prompt shown to a policy.
        facts: fact type -> the true value (a phrase of `lexicon.PHRASES`).
        decoys: fact type -> another person's value that the post also mentions.
        subreddit: the topic, used for slices.
    """

    text: str
    facts: dict[str, str]
    decoys: dict[str, str]
    subreddit: str


def draw_facts(rng: random.Random, avoid: dict[str, str] | None = None) -> dict[str, str]:
    """One value for every fact type, none of them equal to the value in `avoid`."""
    facts = {}
    for kind in FACT_TYPES:
        value = rng.choice(PHRASES[kind])
        while avoid and _clash(kind, value, avoid[kind]):
            value = rng.choice(PHRASES[kind])
        facts[kind] = value
    return facts


def _clash(kind: str, a: str, b: str) -> bool:
    if kind == "who":  # two people never share a name, whatever their relation
        return a.split()[1] == b.split()[1]
    if kind == "deed":  # nor two deeds an object
        return a.split()[-1] == b.split()[-1]
    return a == b


def draw_post(rng: random.Random, decoy_share: float, filler_max: int = 2) -> Post:
    """Draw one post.

    Args:
        rng: the only source of randomness.
        decoy_share: probability that the post also tells another person's story.
        filler_max: at most this many filler sentences.
    """
    facts = draw_facts(rng)
    title = f"my {facts['who']} {facts['deed']}"
    extra = rng.choice((None, "when", "where", "amount", "feeling"))
    if extra in ("when", "where"):
        title += f" {facts[extra]}"
    elif extra == "amount":
        title += f" , {facts['amount']}"
    elif extra == "feeling":
        title += f" , i {facts['feeling']}"

    sentences = [f"my {facts['who']} {facts['deed']} {facts['when']} {facts['where']} ."]
    decoys: dict[str, str] = {}
    if rng.random() < decoy_share:
        other = draw_facts(rng, avoid=facts)
        decoys = {kind: other[kind] for kind in ("who", "deed", "when", "where")}
        story = f"my {other['who']} {other['deed']} {other['when']} {other['where']} ."
        sentences.insert(rng.randrange(2), story)
    tail = [
        rng.choice(("it cost me {} .", "the damage was {} .")).format(facts["amount"]),
        rng.choice(("i {} .", "now i {} about it .")).format(facts["feeling"]),
        f"{facts['ask']} ?",
    ]
    rng.shuffle(tail)
    sentences += tail
    for _ in range(rng.randint(0, filler_max)):
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(FILLER) + " .")

    subreddit = SUBREDDIT_OF_ASK[facts["ask"]]
    text = f"SUBREDDIT: r/{subreddit}\nTITLE: {title}\nPOST: {' '.join(sentences)}\nTL;DR:"
    return Post(detach(text), facts, decoys, subreddit)


def detach(text: str) -> str:
    """Write punctuation as people do: no space before `. , ?`."""
    return text.replace(" .", ".").replace(" ,", ",").replace(" ?", "?")
