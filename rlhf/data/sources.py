"""Where data comes from: the built-in generator, a folder of files, or the QA-feedback preferences.

Every source gives the same tables (`contracts.TABLES`), any of them possibly without rows, in the shape the
source has: ids, splits and normal form come later, in `prepare`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.contracts import GOLD, TABLES, DataError, with_ids
from rlhf.data.qa_feedback import GROUP, LABELER, OUTPUTS, PAIRS, broken_ties, question_of, ranking_of_pairs
from rlhf.data.readers import read_rows, read_text
from rlhf.settings import Ingest
from rlhf.world.posts import Post, draw_post
from rlhf.world.writers import write

Rows = list[dict[str, Any]]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Raw:
    """What a source gives.

    Attributes:
        tables: name -> rows, for each name of `contracts.TABLES`.
        gold: rows of the GOLD contract; only the built-in source has any.
        revision: what tells this state of the source from any other.
        notes: lines that a person should see.
    """

    tables: dict[str, Rows]
    gold: Rows
    revision: str
    notes: tuple[str, ...] = ()


def load(settings: Ingest, seed: int) -> Raw:
    """Rows from the source that the settings name.

    Raises:
        DataError: a missing or unexpected path, unreadable rows, or a hash other than `settings.sha256`.
    """
    if settings.source == "builtin":
        if settings.path is not None or settings.sha256 is not None:
            raise DataError(
                "ingest.path and ingest.sha256 are for sources that read files; builtin reads none"
            )
        return builtin(settings, seed)
    if settings.path is None:
        raise DataError(f"ingest.path is not set; source {settings.source} needs the path of its data")
    revision = source_hash(settings.path)
    if settings.sha256 not in (None, revision):
        raise DataError(
            f"{settings.path}: sha256 is {revision}, ingest.sha256 says {settings.sha256}: the data changed; "
            "put the new hash there if that is meant"
        )
    readers: dict[str, Callable[[str], Raw]] = {"files": files, "qa-feedback": qa_feedback}
    return readers[settings.source](settings.path)


def source_hash(path: Path | str) -> str:
    """SHA-256 (hex) of a source: of the bytes of a file, or of names and bytes of a folder's tables.

    Raises:
        DataError: no such file or folder.
    """
    path = Path(path)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for name in TABLES:
        file = _table_file(path, name)
        if file:
            digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


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
    tables = {name: _marked(rows, "builtin") for name, rows in tables.items()}
    return Raw(tables, with_ids(GOLD, gold, "builtin"), f"seed {seed}")


def files(path: Path | str) -> Raw:
    """A folder with `demonstrations`, and where there are any `prompts`, `comparisons` and `corpus`.

    Each is a `.jsonl`, `.json`, `.csv` or `.parquet` file; without a corpus the demonstrations are it.

    Raises:
        DataError: no such folder, no demonstrations, one table in two files, or rows that cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{path}: no such folder; source files needs one with demonstrations in it")
    if _table_file(folder, "demonstrations") is None:
        raise DataError(f"{folder}: no demonstrations file; it may end in {', '.join(SUFFIXES)}")
    tables: dict[str, Rows] = {}
    notes: list[str] = []
    for name, contract in TABLES.items():
        file = _table_file(folder, name)
        rows = read_rows(file, contract, notes) if file else []
        tables[name] = _marked(rows, file.name if file else name)
    if not tables["corpus"]:
        tables["corpus"] = [
            {"text": f"{row['prompt'] or ''} {(row['completion'] or '').strip()}", "source": row["source"]}
            for row in tables["demonstrations"]
        ]
    return Raw(tables, [], f"sha256 {source_hash(folder)}", tuple(notes))


def _table_file(folder: Path, name: str) -> Path | None:
    found = [folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: both {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else None


def qa_feedback(path: Path | str) -> Raw:
    """`dev_feedback.json` of FineGrainedRLHF (Wu et al. 2023): questions with passages, a human reference
    and four outputs that people compared pair by pair.

    The six preferences become one ranking with ties. Corpus: all passages, and the prompts.

    Raises:
        DataError: not that file, or preferences that go in a circle.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: no such file; source qa-feedback needs dev_feedback.json")
    try:
        items = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {error.lineno}: not valid JSON ({error.msg}); is the file cut off?"
        ) from None
    if not isinstance(items, list) or not items:
        raise DataError(f"{path}: expected a JSON list of questions")

    demonstrations: Rows = []
    comparisons: Rows = []
    passages: dict[str, None] = {}  # in order, each once
    untied = 0
    for number, item in enumerate(items, start=1):
        try:
            question = question_of(item)
            ranking = ranking_of_pairs(question.preferences)
        except DataError as error:
            raise DataError(f"{path}: question {number}: {error}") from None
        passages |= dict.fromkeys(question.passages)
        untied += broken_ties(question.preferences, ranking)
        demonstrations.append(
            {
                "prompt": question.prompt,
                "completion": question.reference,
                "writer_id": "qa-feedback-writers",
            }
        )
        comparisons.append(
            {
                "prompt": question.prompt,
                "completions": list(question.outputs),
                "ranking": ranking,
                "labeler_id": LABELER,
                "labeler_group": GROUP,
                "policies": list(OUTPUTS),
            }
        )
    prompts = [{"prompt": row["prompt"]} for row in demonstrations]
    corpus = [{"text": text} for text in [*passages, *(row["prompt"] for row in demonstrations)]]
    tables = {
        "corpus": corpus,
        "demonstrations": demonstrations,
        "prompts": prompts,
        "comparisons": comparisons,
    }
    note = f"{untied} of {len(items) * len(PAIRS)} pairs are ties that the other pairs of the question break"
    tables = {name: _marked(rows, "qa-feedback") for name, rows in tables.items()}
    return Raw(tables, [], f"sha256 {source_hash(file)}", (note,))


def _marked(rows: Rows, source: str) -> Rows:
    return [{**row, "source": row.get("source") or source} for row in rows]
