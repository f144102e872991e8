"""Parameters of the data: where rows come from, how they are split and checked, who ranks outputs."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from rlhf.settings.section import Section, param


class Reading(Section):
    """How the files of a source are read; what is left out is told by their columns."""

    layout: str | None = param(
        None, "name of the layout (docs/data.md lists them); null recognises it by the columns"
    )
    columns: dict[str, str] = param(
        {},
        "column of the pipeline -> column of the file, such as {prompt: question, chosen: better_answer}; a "
        'text made of several is written as "{title}: {post}"',
    )
    keep: list[str] = param([], 'unknown columns that are kept, as JSON in the column extra; ["*"] keeps all')
    direction: Literal["lower", "higher"] | None = param(
        None, "whether the lower or the higher rank or score is better, where the layout leaves it open"
    )
    aspects: dict[str, float] = param(
        {},
        "weights of ratings by aspect, such as {helpfulness: 1, verbosity: -0.2}; {} takes the overall one",
    )
    words: dict[str, str] = param(
        {},
        "answer in words -> first, second, tie, both_bad or skip, such as {left one: first}, or the column "
        "of the output that it means; of a vote up, down or skip",
    )
    prompt: str | None = param(None, "column of the prompt, where several could be it")
    outputs: list[str] = param([], "columns of the outputs in order, where others could be among them")
    edit: str | None = param(
        None, "question whose free text is an edit of the first output; other free text is a note"
    )
    best_answers: Literal["comparisons", "demonstrations"] = param(
        "comparisons",
        "demonstrations: the best answer of each comparison is a demonstration as well, for preferences that "
        "come without any; comparisons: it is not",
    )
    unreadable: Literal["refuse", "quarantine"] = param(
        "refuse",
        "what becomes of a row that cannot be read: refuse stops; quarantine writes it beside the data with "
        "file, row and reason, and goes on",
    )


class FileSource(Reading):
    """One of several sources."""

    path: str = param(..., "file, folder, pattern such as shards/*.parquet, or id of a data set on the Hub")
    revision: str | None = param(None, "commit of a data set on the Hub, all 40 digits of its hash")
    name: str | None = param(None, "what its rows carry as source; null for the name of the file")
    split: Literal["train", "validation", "judge", "test"] | None = param(
        None, "split of all its rows; null for what the data say"
    )
    # At most 1: a row that is repeated is a row that says the same as another, which validation refuses, and
    # only the ratio of the weights matters.
    weight: float = param(
        1.0,
        "share of its rows that are taken, each by the hash of what it says; rows that say that they are "
        "held out are all taken",
        gt=0,
        le=1,
    )


class Ingest(Reading):
    """Where the data comes from."""

    source: Literal["builtin", "files", "qa-feedback"] = param(
        "builtin",
        "builtin: the seeded generator; files: demonstrations, preferences, votes, conversations in any "
        "layout that docs/data.md lists; qa-feedback: dev_feedback.json of FineGrainedRLHF",
    )
    path: str | None = param(
        None, "file, folder, pattern of files, or id of a data set on the Hub; none for builtin"
    )
    revision: str | None = param(None, "commit of a data set on the Hub, all 40 digits of its hash")
    sources: list[FileSource] = param([], "several sources in place of path, each read in its own way")
    sha256: str | None = param(
        None, "hash that the source must have; filled in by --data, so that a changed file is another dataset"
    )
    corpus_posts: int = param(24000, "posts in the pretraining corpus", "posts", ge=100, le=10_000_000)
    train_posts: int = param(6000, "posts with a reference for training", "posts", ge=50, le=1_000_000)
    test_posts: int = param(1000, "held-out posts for evaluation", "posts", ge=20, le=100_000)
    decoy_share: float = param(0.2, "share of posts that also tell another person's story", ge=0, le=1)
    summary_share: float = param(0.15, "share of corpus posts that end with a summary", ge=0, le=1)
    chat: bool = param(False, "builtin: prompts are conversations (messages) about the same posts")


class Prepare(Section):
    """Splits and lengths."""

    validation_share: float = param(0.05, "share of training prompts held out for curves", ge=0.01, le=0.5)
    judge_share: float = param(0.0, "share of prompts that only a reward-model judge trains on", ge=0, le=0.5)
    test_share: float = param(
        0.0, "share of prompts for evaluation where the source has no test split", ge=0, le=0.5
    )
    near_duplicates: float | None = param(
        0.85,
        "prompts with this share of words in common (intersection over union) are in one split; null looks "
        "for equal prompts only",
        ge=0.5,
        le=1,
    )
    too_long: Literal["refuse", "drop", "cut"] = param(
        "refuse",
        "rows that the context of the base cannot hold: refuse stops before any training; drop leaves them "
        "out; cut takes the start of plain prompts, in every table alike",
    )
    max_prompt_chars: int = param(4000, "longer prompts fail validation", "characters", ge=50, le=1_000_000)
    max_completion_chars: int = param(
        2000, "longer completions fail validation", "characters", ge=10, le=1_000_000
    )


class Validate(Section):
    """What becomes of rows that break a rule; `python -m tasks.rules` lists the rules."""

    rules: dict[str, Literal["stop", "warn", "quarantine"]] = param(
        {},
        "rule -> what a breach does, where it is not as the rule says itself, such as {personal_data: stop}; "
        "quarantine: prepare takes the rows out and writes them beside, with file, row and rule",
    )
    thresholds: dict[str, float] = param(
        {}, "rule -> its threshold, where it is not the rule's own, such as {ties: 0.8}"
    )


class Labels(Section):
    """A version of the label store, and the hash that it must have."""

    project: str = param("built-in", "project of the label store", min_length=1, max_length=60)
    version: int | None = param(None, "all its labels up to this version", ge=1)
    sha256: str | None = param(
        None, "hash that the rankings must have, so that another store is another dataset; null for any"
    )


class Collect(Section):
    """Candidate outputs and who ranks them."""

    labelers: Literal["simulated", "given", "store", "references"] = param(
        "simulated",
        "simulated: the built-in labelers rank samples; given: rankings come with the source; store: people "
        "gave them in the labeling app (collect.labels; the flow `feedback` fills that in); references: "
        "nobody ranks, references stand above samples and above references made worse",
    )
    labels: Labels = Labels()
    prompts: int = param(1600, "prompts to collect rankings for", "prompts", ge=1, le=1_000_000)
    candidates: int = param(4, "K, outputs ranked together", "outputs", ge=2, le=9)
    corrupted: int = param(
        2,
        "references made worse that stand below a reference where labelers is references: of another "
        "prompt, with words of another, shuffled, cut, or said twice",
        "outputs",
        ge=0,
        le=5,
    )
    temperature: float = param(0.9, "sampling temperature of the candidates", gt=0, le=5)
    groups: dict[Literal["expert", "novice", "spammer"], float] = param(
        {"expert": 0.6, "novice": 0.3, "spammer": 0.1}, "shares of the simulated labelers by group"
    )
    shared: float = param(
        0.15, "share of prompts in the pool that several labelers rank; tells labelers apart", ge=0, le=1
    )
    overlap: int = param(2, "labelers who rank each prompt of the shared pool", "labelers", ge=2, le=20)

    @field_validator("groups")
    @classmethod
    def _shares(cls, groups: dict[str, float]) -> dict[str, float]:
        if not all(0 <= share <= 1e6 for share in groups.values()):
            raise ValueError("a share is a number from 0 to 1000000")
        return groups
