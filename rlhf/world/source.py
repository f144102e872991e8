"""The built-in world as a source: posts with references, and other posts as corpus."""

from __future__ import annotations

import json
import random
from typing import Any

from rlhf.data.contracts import GOLD, with_ids
from rlhf.data.conversations import transcript
from rlhf.data.sources import Raw, Rows, marked
from rlhf.settings import Ingest
from rlhf.world.posts import Post, draw_post
from rlhf.world.writers import write

CUE = "\nTL;DR:"  # how a post asks for its summary
SYSTEM = "Summarise the post in a few words."  # how a conversation does


def builtin(settings: Ingest, seed: int) -> Raw:
    """The built-in world: posts with references for training and testing, and other posts as corpus.

    The corpus is cut before `TL;DR:` except in `summary_share` of its posts, which show a summary; no post is
    drawn twice, so no test post is in the corpus. With `settings.chat` the prompts are conversations about
    the same posts, with the same references; the corpus is the same texts.
    """
    seen: set[str] = set()

    def posts(name: str, count: int) -> tuple[list[Post], random.Random]:
        rng = random.Random(f"{seed}-{name}")
        drawn: list[Post] = []
        while len(drawn) < count:
            post = draw_post(rng, settings.decoy_share)
            if post.text not in seen:
                seen.add(post.text)
                drawn.append(post)
        return drawn, rng

    demonstrations: Rows = []
    prompts: Rows = []
    gold: Rows = []
    for name, count, split in (("test", settings.test_posts, "test"), ("train", settings.train_posts, None)):
        drawn, rng = posts(name, count)
        for post in drawn:
            completion, writer = write(post, rng)
            prompt = _told(post) if settings.chat else {"prompt": post.text}
            answer = completion.strip() if settings.chat else completion
            demonstrations.append(prompt | {"completion": answer, "writer_id": writer, "split": split})
            prompts.append(prompt | {"topic": post.subreddit, "split": split})
            gold.append({"prompt": prompt["prompt"], "facts": json.dumps(post.facts)})

    corpus: Rows = []
    drawn, rng = posts("corpus", settings.corpus_posts)
    for post in drawn:
        summary = rng.random() < settings.summary_share
        text = post.text + write(post, rng)[0] if summary else post.text.removesuffix(CUE)
        corpus.append({"text": text})
    tables = {
        "corpus": corpus,
        "demonstrations": demonstrations,
        "prompts": prompts,
        "comparisons": [],
        "votes": [],
    }
    tables = {name: marked(rows, "builtin") for name, rows in tables.items()}
    return Raw(tables, with_ids(GOLD, gold, "builtin"), f"seed {seed}")


def _told(post: Post) -> dict[str, Any]:
    """A post as a conversation that asks for its summary, and the text that people see of it."""
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": post.text.removesuffix(CUE)},
    ]
    return {"prompt": transcript(messages), "messages": messages}
