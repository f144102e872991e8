"""The references of the built-in task, as a mixture of imperfect writers would write them."""

from __future__ import annotations

import random

from rlhf.world.lexicon import FACT_TYPES, PHRASES, RAMBLE
from rlhf.world.posts import Post, detach

# name -> (share, fewest facts, most facts, chance that a fact is wrong, chance of a rambling aside)
WRITERS: dict[str, tuple[float, int, int, float, float]] = {
    "careful": (0.2, 6, 7, 0.0, 0.0),
    "terse": (0.3, 3, 4, 0.0, 0.0),
    "rambling": (0.3, 4, 6, 0.03, 0.9),
    "careless": (0.2, 4, 6, 0.2, 0.1),
}
_PRIORITY = {"who": 0, "deed": 0}  # every summary starts from these two


def write(post: Post, rng: random.Random, writer: str | None = None) -> tuple[str, str]:
    """Write a reference for a post.

    Returns:
        the completion (starts with a space) and the writer's id, e.g. `careful-2`.
    """
    if writer is None:
        writer = rng.choices(list(WRITERS), weights=[w[0] for w in WRITERS.values()])[0]
    _, low, high, wrong, aside = WRITERS[writer]
    others = [kind for kind in FACT_TYPES if kind not in _PRIORITY]
    told = {"who", "deed", *rng.sample(others, rng.randint(low, high) - 2)}
    if writer == "terse":  # says who, what and the question
        told = {"who", "deed", "ask", *rng.sample(("when", "where"), len(told) - 3)}
    facts = {  # in a fixed order: that of a set changes from process to process, and with it the draws
        kind: _slip(post, kind, rng) if rng.random() < wrong else post.facts[kind]
        for kind in FACT_TYPES
        if kind in told
    }
    return " " + render(facts, rng, aside), f"{writer}-{rng.randint(1, 3)}"


def render(facts: dict[str, str], rng: random.Random, aside: float = 0.0) -> str:
    """Say these facts in the order and wording that writers use."""
    first = " ".join(facts[kind] for kind in ("who", "deed", "when", "where") if kind in facts)
    sentences = [f"my {first} ."]
    if rng.random() < aside:
        sentences.insert(rng.randrange(2), rng.choice(RAMBLE) + " .")
    if "amount" in facts:
        sentences.append(f"it cost me {facts['amount']} .")
    if "feeling" in facts:
        sentences.append(f"i {facts['feeling']} .")
    if rng.random() < aside / 2:
        sentences.append(rng.choice(RAMBLE) + " .")
    if "ask" in facts:
        sentences.append(f"{facts['ask']} ?")
    return detach(" ".join(sentences))


def _slip(post: Post, kind: str, rng: random.Random) -> str:
    """A careless mistake: another person's value if the post has one, else any other."""
    if kind in post.decoys:
        return post.decoys[kind]
    return rng.choice([value for value in PHRASES[kind] if value != post.facts[kind]])
