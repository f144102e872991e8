"""Sample K candidate outputs a prompt and have labelers rank them: `python -m tasks.collect`.

Reads data/prepared, data/gold, models/sft; writes data/comparisons, metrics/collect.json. With
`collect.labelers: given` the rankings come with the source and are passed on; with `store` they are a
version of the label store (`LABELING_DB`, else .state/labels.db); with `references` nobody ranks: what
people wrote stands above what SFT and the base wrote (as in Chen et al. 2024, arXiv:2401.01335) and above
references made worse. Simulated labelers are called `simulated` in every row they make, and rankings that
nobody gave `references`.
"""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from rlhf.compute import deterministic
from rlhf.data.clean import unclean
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, PROMPT, SPLITS, VOTE, with_ids
from rlhf.data.conversations import Messages
from rlhf.data.corrupted import corrupted
from rlhf.data.errors import DataError
from rlhf.data.files import write_json, written_beside
from rlhf.data.normal_form import answer_behind
from rlhf.data.plural import plural
from rlhf.data.rankings import agreement_on_pairs
from rlhf.data.splits import prompt_key
from rlhf.data.table import read_table, write_table
from rlhf.models.policy import load_policy
from rlhf.models.sampling import generate
from rlhf.settings import Settings
from rlhf.world.facts import read_facts
from rlhf.world.labelers import pool, rank
from tasks.runtime.places import state_dir
from tasks.runtime.stage import Stage, run


def main(stage: Stage) -> dict[str, float]:
    """Get the rankings, write and measure them; returns the figures by labeler group."""
    settings = stage.settings
    deterministic(settings.seed, settings.threads)
    rows: Sequence[dict[str, Any]]
    if settings.collect.labelers == "given":
        rows = read_table("data/prepared/comparisons.parquet", COMPARISON)
        votes = read_table("data/prepared/votes.parquet", VOTE)
        if not rows and not votes:
            raise DataError(
                "data/prepared/comparisons.parquet: the source brought no comparisons and no votes; "
                "add a file with some or set collect.labelers: simulated"
            )
        if votes:
            told = plural(len(votes), "vote")
            print(f"{told} came with the source; the reward model learns from them, too")
    elif settings.collect.labelers == "store":
        rows = stored(stage)
    elif settings.collect.labelers == "references":
        rows = from_references(stage)
    else:
        rows = simulated(stage)
    with written_beside("data/comparisons") as folder:
        folder.mkdir()
        write_table(folder / "comparisons.parquet", COMPARISON, rows)
    figures = agreement(rows)
    write_json("metrics/collect.json", figures)
    stage.log_dataset("data/comparisons/comparisons.parquet", rows, "comparisons")
    stage.log_samples(
        [{k: row[k] for k in ("prompt", "completions", "ranking", "labeler_id")} for row in rows[:50]],
        "samples",
    )
    return {f"{group}/{name}": value for group, values in figures.items() for name, value in values.items()}


def posts_of(demonstrations: Iterable[dict[str, Any]], prompts: int) -> list[dict[str, Any]]:
    """The demonstrations whose prompts are ranked: of split train and judge at most `prompts` each, and a
    tenth of that held out, so that the reward model's accuracy is measured on unseen posts."""
    most = {"train": prompts, "validation": max(1, prompts // 10), "judge": prompts}
    posts: dict[str, list[dict[str, Any]]] = {split: [] for split in most}
    for row in demonstrations:
        if row["split"] in most and len(posts[row["split"]]) < most[row["split"]]:
            posts[row["split"]].append(row)
    return [row for rows in posts.values() for row in rows]


def from_references(stage: Stage) -> list[dict[str, Any]]:
    """Rankings that need no labeler: all references of a prompt first, all else behind them.

    Ties are not learnt from, so nothing is said of two references, or of two texts that are none.

    Raises:
        DataError: no prompt has a reference.
    """
    params, seed = stage.settings.collect, stage.settings.seed
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    references: dict[str, list[str]] = {}
    first: dict[tuple[str, str], dict[str, Any]] = {}  # the first demonstration of each prompt
    for row in demonstrations:
        references.setdefault(row["prompt"], []).append(row["completion"])
        first.setdefault((row["split"], row["prompt"]), row)
    posts = posts_of(first.values(), params.prompts)
    if not posts:
        raise DataError("collect.labelers is 'references', but there is no demonstration; bring some")
    # Of the base as many as of SFT: a judge that had seen one of them alone would mark that one down.
    of_base = candidates("models/pretrained", posts, stage.settings)
    others: dict[str, list[str]] = {}  # by split, so that none is trained on what another holds out
    for post in posts:
        others.setdefault(post["split"], []).append(post["completion"])
    rows, alone = [], 0
    of_sft = candidates("models/sft", posts, stage.settings)
    for post, texts, before in zip(posts, of_sft, of_base, strict=True):
        plain, rng = post["messages"] is None, random.Random(f"{seed}/{post['id']}")
        made = corrupted(post["completion"], others[post["split"]], params.corrupted, rng)
        told = [(text, "reference") for text in references[post["prompt"]]]
        for policy, samples in (("sft", texts[1:]), ("pretrained", before[1:])):
            # Behind plain text as `prepare` writes answers, so that no model tells them by their spaces.
            told += [(answer_behind(True, text.strip()) if plain else text, policy) for text in samples]
        told += [(answer_behind(plain, text), f"reference, {fault}") for fault, text in made]
        shown: dict[str, tuple[str, str]] = {}  # no text twice, whatever white space is around it
        for text, who in told:
            shown.setdefault(text.strip(), (text, who))
        policies = [who for _, who in shown.values()]
        if set(policies) == {"reference"}:
            alone += 1
            continue
        rows.append(
            {
                "prompt": post["prompt"],
                "messages": post["messages"],
                "completions": [text for text, _ in shown.values()],
                "ranking": [1 if who == "reference" else 2 for who in policies],
                "labeler_id": "references",
                "labeler_group": None,
                "seconds": None,
                "policies": policies,
                "split": post["split"],
            }
        )
    if alone:
        print(f"{plural(alone, 'prompt')} left out: nothing stands below the references")
    if not rows:
        raise DataError(
            f"nothing stands below the references of {plural(len(posts), 'prompt')}: models/sft and "
            "models/pretrained answer with nothing; train longer (sft.epochs), or raise collect.corrupted"
        )
    return with_ids(COMPARISON, rows, "references")


def simulated(stage: Stage) -> list[dict[str, Any]]:
    """Rankings by the simulated labelers of the policy's samples and the reference."""
    params, rng = stage.settings.collect, random.Random(stage.settings.seed)
    facts = read_facts("data/gold/facts.parquet")
    if not facts:
        raise DataError(
            "collect.labelers is 'simulated', but the source has no facts for simulated labelers; "
            "bring comparisons and set collect.labelers: given"
        )
    posts = posts_of(read_table("data/prepared/demonstrations.parquet", DEMONSTRATION), params.prompts)
    labelers, rows = pool(params.groups), []
    if params.overlap > len(labelers):
        raise DataError(f"collect.overlap is {params.overlap}, but there are {len(labelers)} labelers")
    for post, texts in zip(posts, candidates("models/sft", posts, stage.settings), strict=True):
        if len(texts) < 2:
            continue
        # Several labelers rank a share of the prompts, so that their agreement can be measured
        # (Stiennon et al. 2020, appendix C: 10-20 % of the items).
        asked = rng.sample(labelers, params.overlap if rng.random() < params.shared else 1)
        for labeler, group in asked:
            order = rng.sample(range(len(texts)), len(texts))
            label = rank(facts[post["prompt"]], texts, order, group, rng)
            rows.append(
                {
                    "prompt": post["prompt"],
                    "messages": post["messages"],
                    "completions": texts,
                    "ranking": list(label.ranking),
                    "labeler_id": labeler,
                    "labeler_group": group,
                    "strength": label.strength,
                    "policies": ["reference"] + ["sft"] * (len(texts) - 1),
                    "shown_order": order,
                    "seconds": label.seconds,
                    "guideline_version": "simulated-1",
                    "split": post["split"],
                }
            )
    if not rows:
        raise DataError(
            f"nothing to rank: of {plural(len(posts), 'prompt')} none has two different texts, because "
            "models/sft answers with nothing or with the reference; train it longer (sft.epochs), or raise "
            "collect.temperature or collect.candidates"
        )
    return with_ids(COMPARISON, rows, "simulated")


def candidates(policy: Path | str, posts: Sequence[Mapping[str, Any]], settings: Settings) -> list[list[str]]:
    """For each demonstration its completion and `collect.candidates` - 1 samples of a policy.

    A person is shown no empty text, no bytes that are no text (byte-level BPE can make such), and
    no text twice: equal samples are one candidate.
    """
    params, samples = settings.collect, settings.collect.candidates - 1
    outputs = generate(
        load_policy(policy),
        [row for row in posts for _ in range(samples)],
        temperature=params.temperature,
        max_new_tokens=settings.evaluate.response_length,
        seed=settings.seed,
        batch_size=256,
    )
    marks = unclean(pa.array(outputs, pa.string())).to_pylist()
    broken = {text.strip() for text, bad in zip(outputs, marks, strict=True) if bad}
    shown = []
    for i, post in enumerate(posts):
        texts: dict[str, str] = {}
        for text in [post["completion"], *outputs[i * samples : (i + 1) * samples]]:
            texts.setdefault(text.strip(), answer_behind(post["messages"] is None, text))
        shown.append([text for stripped, text in texts.items() if stripped and stripped not in broken])
    if broken:
        print(f"{len(broken)} of {len(outputs)} samples hold characters that no person types: left out")
    return shown


def stored(stage: Stage) -> list[dict[str, Any]]:
    """The rankings of a version of the label store, in the normal form of `prepare`.

    A prompt of the dataset is in the dataset's split, whatever the label says and however it spells the
    prompt, so that no held-out prompt is trained on. One that only the labels know is in theirs, or in
    `train`, and is counted.

    Raises:
        DataError: no version is named, the store has no such version, there is nothing to learn in it, or
            none of its prompts is the dataset's.
    """
    from labeling.address import store_address
    from labeling.contracts import SOURCE
    from labeling.rankings import stored_rankings  # here, because it loads a database

    wanted = stage.settings.collect.labels
    if wanted.version is None:
        raise DataError(
            "collect.labelers is 'store', but collect.labels.version is not set; `python -m labeling export "
            "PROJECT FOLDER --cut` makes a version, and `python -m flows.loop` does all of it"
        )
    prompts = read_table("data/prepared/prompts.parquet", PROMPT)
    dataset: dict[str, dict[str, Any]] = {}
    for row in sorted(prompts, key=lambda row: SPLITS.index(row["split"])):
        dataset[prompt_key(row["prompt"])] = row  # the more held out of two spellings counts
    rows, unknown, others = [], [], 0
    address = store_address(state_dir())
    for row in stored_rankings(address, wanted.project, wanted.version, wanted.sha256, print):
        prompt = row["prompt"].strip()
        known = dataset.get(prompt_key(prompt))
        split = known["split"] if known else row["split"] or "train"
        others += known is not None and not _same_turns(known["messages"], row["messages"])
        row |= {"prompt": prompt, "messages": (known or row)["messages"], "split": split, "id": None}
        rows.append(
            row
            | {"completions": [answer_behind(row["messages"] is None, text) for text in row["completions"]]}
        )
        if known is None:
            unknown.append(rows[-1])
    if len(unknown) == len(rows):
        raise DataError(
            f"project {wanted.project!r}, version {wanted.version} of the labels: no ranking is of a prompt "
            f"of the dataset, such as {ascii(rows[0]['prompt'])[:60]}, so it is not known what is held out; "
            "name the dataset whose outputs people ranked (ingest), or add the prompts to its prompts table"
        )
    rows = list({row["id"]: row for row in with_ids(COMPARISON, rows, SOURCE)}.values())
    splits = ", ".join(f"{sum(row['split'] == split for row in rows)} {split}" for split in SPLITS)
    told = plural(len(rows), "ranking")
    print(f"labels of project {wanted.project!r}, version {wanted.version}: {told}, {splits}")
    if unknown:
        trained_on = sum(row["split"] == "train" for row in unknown)
        print(
            f"{len(unknown)} of them are of prompts that the dataset does not have, {trained_on} of those in "
            f"split train, such as {ascii(unknown[0]['prompt'])[:60]}"
        )
    if others:
        print(
            f"{others} were ranked as another conversation than the dataset has for that prompt text, "
            "and are read as answers to the dataset's"
        )
    stage.record["labels"] = wanted.model_dump() | {"rankings": len(rows), "unknown_prompts": len(unknown)}
    return rows


def _same_turns(ours: Messages | None, theirs: Messages | None) -> bool:
    """Whether a label's conversation is the dataset's; one that was ranked as plain text is."""
    if theirs is None:
        return True
    # `prepare` has changed the line ends of the dataset's
    turns = [(turn["role"], turn["content"].replace("\r\n", "\n")) for turn in theirs]
    return turns == [(turn["role"], turn["content"]) for turn in ours or ()]


def agreement(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By labeler group: rankings, median seconds, ties; and how often two labelers agree on a pair.

    Agreement counts pairs of outputs that two people ranked for the same prompt. Where only one of them sees
    a tie, they agree by half.
    """
    counts: dict[str, Counter[str]] = {"all": Counter()}
    seconds: dict[str, list[float]] = {}
    shared: dict[bytes, list[list[int]]] = {}  # by a hash, so that the texts need not be kept
    for row in rows:
        pairs = [a == b for a, b in combinations(row["ranking"], 2) if None not in (a, b)]
        for group in {"all", row["labeler_group"] or "unknown"}:
            mine = counts.setdefault(group, Counter())
            mine.update(rankings=1, pairs=len(pairs), ties=sum(pairs))
            if row["seconds"] is not None:
                seconds.setdefault(group, []).append(row["seconds"])
        texts = row["prompt"] + "\0".join(row["completions"])
        shared.setdefault(sha256(texts.encode()).digest(), []).append(row["ranking"])
    figures: dict[str, dict[str, float]] = {}
    for group in ["all", *sorted(counts.keys() - {"all"})]:
        mine = counts[group]
        figures[group] = {"rankings": mine["rankings"], "tie_share": mine["ties"] / max(1, mine["pairs"])}
        if group in seconds:
            figures[group]["median_seconds"] = sorted(seconds[group])[len(seconds[group]) // 2]
    votes = [
        agreement_on_pairs(ranking, other)
        for same in shared.values()
        for ranking, other in combinations(same, 2)
    ]
    if votes:
        figures["all"]["agreement"] = sum(sum(v) for v in votes) / sum(len(v) for v in votes)
        figures["all"]["agreement_pairs"] = sum(len(v) for v in votes)
    return figures


if __name__ == "__main__":
    run("collect", main)
