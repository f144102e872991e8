"""Who prefers what: a judge looks at a prompt, its reference and an output, and says which is better.

| judge | kind | who decides |
|---|---|---|
| `gold_judge` | gold | the built-in task's hidden preference |
| `simulated_judge` | simulated | the built-in task's labelers, with their noise and habits |
| `human_judge` | human | people, whose judgments stand in a file |
| `model_judge` | model | a reward model, trained on a split that nothing else saw |
| `rlhf.judges.language_model.LlmJudge` | model | a language model behind an OpenAI-compatible endpoint |

Only one kind is people, and every table says which one it was. `blind_pairs` makes what is judged; every
judge takes that and gives rows of the contract JUDGMENT.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rlhf.data.contracts import GOLD, JUDGMENT, DataError, read_json, read_table, row_id, with_ids
from rlhf.data.readers import read_rows
from rlhf.measures.judge_trust import Ask, Pair, by_score
from rlhf.measures.rates import POINTS
from rlhf.settings import Settings

FACTS, MODEL, PEOPLE = "data/gold/facts.parquet", "models/judge", "data/human"

KINDS = {
    "gold": "gold preference",
    "model": "model judge",
    "simulated": "simulated labelers",
    "human": "people",
}
_TABLES = (".jsonl", ".json", ".csv", ".parquet")
Row = dict[str, Any]


class Judge(Protocol):
    """Anything that judges.

    Attributes:
        name: stable id, stored with every judgment.
        kind: `gold`, `model`, `simulated` or `human`.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """Judge what `blind_pairs` made.

        Whoever judges learns neither which text is the reference nor the policy's name, and sees the texts in
        `shown_order`. Texts that are the same are a tie.

        Returns:
            Rows of the contract JUDGMENT: several a pair where several people judged it, none where nobody
            did. So count prompts in what comes back, not in what was asked.
        """
        ...


@runtime_checkable
class PairedJudge(Protocol):
    """A judge that sees both texts of a pair at once, and is asked in both orders."""

    def in_both_orders(self, pairs: Sequence[Row]) -> list[list[str | None]]:
        """`output`, `reference`, `tie` or None (unreadable) in `shown_order` and turned round; see
        `rlhf.judges.language_model.LlmJudge`."""
        ...


def asking(judge: Judge, source: str, seed: int) -> Ask:
    """A judge as `rlhf.measures.judge_trust.measure` asks it.

    Raises:
        TypeError: a judge that neither scores texts nor is asked in both orders.
    """
    if isinstance(judge, ScoringJudge):
        return by_score(judge.score)
    if not isinstance(judge, PairedJudge):
        raise TypeError(f"{judge.name}: no way is known to put this judge to the test")
    words = {"reference": "better", "output": "worse", "tie": "tie"}

    def ask(name: str, known: Sequence[Pair]) -> list[str]:
        # the better text stands where the reference does, which no judge is told
        texts = ([getattr(pair, side) for pair in known] for side in ("prompt", "better", "worse"))
        pairs = blind_pairs(name, *texts, split="control", source=source, seed=seed)
        said = []
        for choices in judge.in_both_orders(pairs):
            first = choices[0]
            if first is None or None in choices:
                said.append("unreadable")
            else:
                said.append(words[first] if len(set(choices)) == 1 else "contradiction")
        return said

    return ask


def blind_pairs(
    policy: str,
    prompts: Sequence[str],
    references: Sequence[str],
    outputs: Sequence[str],
    *,
    split: str,
    source: str,
    seed: int,
) -> list[Row]:
    """What is to be judged: rows of the contract JUDGMENT that lack the judgment, in the order of the
    prompts.

    `shown_order[j]` is what stands at position j: 0 the reference, 1 the output. It is drawn by seed, policy
    and
    prompt: random, yet the same one each time.
    """
    pairs = []
    for prompt, reference, output in zip(prompts, references, outputs, strict=True):
        order = [0, 1]
        random.Random(f"{seed}/{policy}/{prompt}").shuffle(order)
        pairs.append(
            {
                "prompt": prompt,
                "reference": reference,
                "output": output,
                "policy": policy,
                "shown_order": order,
                "split": split,
                "source": source,
            }
        )
    return pairs


def judged(pair: Row, preferred: str, judge_id: str, judge_kind: str) -> Row:
    """A pair with its judgment and its id: a row of the contract JUDGMENT."""
    row = {**pair, "preferred": preferred, "judge_id": judge_id, "judge_kind": judge_kind}
    return row | {"id": row_id(JUDGMENT, row)}


@dataclass
class ScoringJudge:
    """A judge that scores each text by itself: the higher score is preferred, equal scores are a tie.

    Attributes:
        name, kind: see `Judge`.
        score: n prompts and n texts -> n scores.
    """

    name: str
    kind: str
    score: Callable[[list[str], list[str]], list[float]]

    def margins(
        self, prompts: Sequence[str], references: Sequence[str], outputs: Sequence[str]
    ) -> list[float]:
        """Score of each output minus the score of its reference; 0 where both are the same text."""
        theirs = self.score(list(prompts), list(references))
        ours = self.score(list(prompts), list(outputs))
        return [
            0.0 if same(reference, output) else b - a
            for a, b, reference, output in zip(theirs, ours, references, outputs, strict=True)
        ]

    def prefer(self, prompts: Sequence[str], references: Sequence[str], outputs: Sequence[str]) -> list[str]:
        """`output`, `reference` or `tie` for each of n prompts."""
        return [to_preference(margin) for margin in self.margins(prompts, references, outputs)]

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """See `Judge.judge`."""
        texts = ([pair[column] for pair in pairs] for column in ("prompt", "reference", "output"))
        return [
            judged(pair, choice, self.name, self.kind)
            for pair, choice in zip(pairs, self.prefer(*texts), strict=True)
        ]


@dataclass
class SimulatedJudge:
    """Simulated labelers of the built-in task, one for each pair, drawn by seed.

    Attributes:
        facts: prompt -> true facts of its post.
        labelers: (id, group) of each; the id becomes the row's `judge_id`.
        seed: who judges what, and their noise, follow from it.
        name, kind: see `Judge`.
    """

    facts: Mapping[str, dict[str, str]]
    labelers: Sequence[tuple[str, str]]
    seed: int
    name: str = "simulated"
    kind: str = "simulated"

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """See `Judge.judge`."""
        from rlhf.world.labelers import rank

        rows = []
        for pair in pairs:
            if pair["prompt"] not in self.facts:
                raise DataError(
                    f"no facts for the prompt {pair['prompt'][:60]!r}; "
                    "simulated labelers know the built-in task only"
                )
            rng = random.Random(f"judge/{self.seed}/{pair['policy']}/{pair['prompt']}")
            labeler, group = rng.choice(self.labelers)
            texts = [pair["reference"], pair["output"]]
            label = rank(self.facts[pair["prompt"]], texts, pair["shown_order"], group, rng)
            margin = 0 if same(*texts) else label.ranking[0] - label.ranking[1]
            rows.append(judged(pair, to_preference(margin), labeler, self.kind))
        return rows


@dataclass
class HumanJudge:
    """People, who judged before: their judgments are looked up.

    Attributes:
        rows: judgments by people, of the contract JUDGMENT.
        name: where they come from.
        kind: see `Judge`.
    """

    rows: Sequence[Row]
    name: str
    kind: str = "human"

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """See `Judge.judge`; the rows are as they were given, `shown_order` included.

        Raises:
            DataError: none of the judgments is about these pairs.
        """
        columns = ("policy", "prompt", "reference", "output")
        asked = {tuple(pair[column] for column in columns) for pair in pairs}
        found = [row for row in self.rows if tuple(row[column] for column in columns) in asked]
        if not found:
            raise DataError(
                f"{self.name}: none of its {len(self.rows)} judgments is about these policies and texts; "
                "people must have seen the very outputs of this run"
            )
        return found


def to_preference(margin: float) -> str:
    """A score difference, output minus reference, as a judgment."""
    return "output" if margin > 0 else "reference" if margin < 0 else "tie"


def same(reference: str, output: str) -> bool:
    """Whether two texts are the same but for white space around them: a tie for every judge."""
    return reference.strip() == output.strip()


def load_judge(name: str, settings: Settings, answers: Path | str) -> Judge:
    """The judge that `evaluate.judges` names, with the files where the pipeline keeps them.

    Args:
        name: one of `evaluate.judges`.
        settings: all parameters.
        answers: file of a language model's answers, kept for good; see `rlhf.judges.language_model`.

    Raises:
        DataError: what the judge needs is not there.
    """
    if name == "gold":
        return gold_judge(name, FACTS)
    if name == "simulated":
        return simulated_judge(settings.collect.groups, FACTS, settings.seed)
    if name == "reward-model":
        if read_json(f"{MODEL}/judge.json").get("kind") != "model":
            raise DataError(
                f"{MODEL}: holds no judge, as no ranking is in split judge; set prepare.judge_share above 0"
            )
        return model_judge(name, MODEL)
    if name == "human":
        return human_judge(PEOPLE)
    from rlhf.judges.language_model import Endpoint, LlmJudge  # here, since it imports this module

    llm = settings.evaluate.llm
    if not llm.url or not llm.model:
        raise DataError("the judge llm needs evaluate.llm.url and evaluate.llm.model in params.yaml")
    endpoint = Endpoint(llm.url, llm.model, key_variable=llm.key_variable)
    return LlmJudge(endpoint, answers, max_requests=llm.max_requests, max_tokens=llm.max_tokens)


def gold_judge(name: str, path: Path | str) -> ScoringJudge:
    """Judge by the built-in task's hidden preference."""
    from rlhf.world.gold import gold_score

    facts = _facts(path)

    def score(prompts: list[str], texts: list[str]) -> list[float]:
        try:
            return [gold_score(facts[prompt], text) for prompt, text in zip(prompts, texts, strict=True)]
        except KeyError as error:
            raise DataError(f"{path}: no facts for the prompt {error.args[0][:60]!r}") from None

    return ScoringJudge(name, "gold", score)


def model_judge(name: str, folder: Path | str) -> ScoringJudge:
    """Judge by a reward model."""
    from rlhf.training.reward import load_reward, score  # here, so that the gold judge needs no model

    model = load_reward(folder)
    return ScoringJudge(name, "model", lambda prompts, texts: score(model, prompts, texts))


def simulated_judge(groups: dict[str, float], path: Path | str, seed: int) -> SimulatedJudge:
    """Judge by simulated labelers.

    Args:
        groups: labeler group -> its weight among the labelers.
        path: table of the built-in task's facts.
        seed: see `SimulatedJudge`.
    """
    from rlhf.world.labelers import pool

    return SimulatedJudge(_facts(path), pool(groups), seed)


def human_judge(path: Path | str) -> HumanJudge:
    """Judge by people's judgments in a file, or in the files of a folder: `.jsonl`, `.json`, `.csv` or
    `.parquet`, contract JUDGMENT.

    `judge_id` tells people apart; rows without one are by one unnamed person.

    Raises:
        DataError: a file that cannot be read, an empty cell, a word that is no judgment, a judgment not by a
            person, or two by one person of the same pair.
    """
    path = Path(path)
    files = sorted(f for f in path.glob("*") if f.suffix in _TABLES) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no judgments; put a file with {', '.join(JUDGMENT.required)} there")
    rows: list[Row] = []
    first: dict[str, str] = {}
    for file in files:
        for number, given in enumerate(read_rows(file, JUDGMENT), start=1):
            rows.append(_judgment_by_a_person(given, f"{file}: row {number}", first))
    return HumanJudge(with_ids(JUDGMENT, rows, path.name), path.name)


def _judgment_by_a_person(given: Row, where: str, first: dict[str, str]) -> Row:
    """A user's row, checked; `first` remembers where each judgment stood."""
    row: Row = {"shown_order": None, "split": None, "source": None} | given
    row["judge_id"] = row.get("judge_id") or "unnamed"
    row["judge_kind"] = row.get("judge_kind") or "human"
    for column in JUDGMENT.required:
        if row[column] is None:
            raise DataError(f"{where}: column {column!r} is empty")
    if row["preferred"] not in POINTS:
        raise DataError(f"{where}: preferred is {row['preferred']!r}; it must be {', '.join(POINTS)}")
    if row["judge_kind"] != "human":
        raise DataError(f"{where}: judge_kind is {row['judge_kind']!r}; here only people judge (human)")
    if row["shown_order"] not in (None, [0, 1], [1, 0]):
        raise DataError(
            f"{where}: shown_order is {row['shown_order']}; it must be [0, 1] (reference first) or [1, 0]"
        )
    key = row_id(JUDGMENT, row)
    if first.setdefault(key, where) != where:
        raise DataError(f"{where}: {row['judge_id']} judged this pair in {first[key]} already; keep one")
    return row


def _facts(path: Path | str) -> dict[str, dict[str, str]]:
    facts = {row["prompt"]: json.loads(row["facts"]) for row in read_table(path, GOLD)}
    if not facts:
        raise DataError(
            f"{path}: holds no facts, so nobody knows the gold preference; for a source other than builtin "
            "leave gold and simulated out of evaluate.judges"
        )
    return facts
