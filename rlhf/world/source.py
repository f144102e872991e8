"""The built-in world as a source: posts with references, and other posts as corpus."""

from __future__ import annotations

import json
import random

from rlhf.data.contracts import GOLD, with_ids
from rlhf.data.sources import Raw, Rows, marked
from rlhf.settings import Ingest
from rlhf.world.posts import Post, draw_post
from rlhf.world.writers import write


def builtin(settings: Ingest, seed: int) -> Raw:
    """The built-in world: posts with references for training and testing, and other posts as corpus.

    The corpus is cut before `TL;DR:` except in `summary_share` of its posts, which show a summary; no post is
    drawn twice, so no test post is in the corpus.
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
            demonstrations.append(
                {"prompt": post.text, "completion": completion, "writer_id": writer, "split": split}
            )
            prompts.append({"prompt": post.text, "topic": post.subreddit, "split": split})
            gold.append({"prompt": post.text, "facts": json.dumps(post.facts)})

    corpus: Rows = []
    drawn, rng = posts("corpus", settings.corpus_posts)
    for post in drawn:
        summary = rng.random() < settings.summary_share
        text = post.text + write(post, rng)[0] if summary else post.text.removesuffix("\nTL;DR:")
        corpus.append({"text": text})
    tables = {"corpus": corpus, "demonstrations": demonstrations, "prompts": prompts, "comparisons": []}
    tables = {name: marked(rows, "builtin") for name, rows in tables.items()}
    return Raw(tables, with_ids(GOLD, gold, "builtin"), f"seed {seed}")
