"""One human reference against another of the same prompt: `python -m benchmarks.reference_control PATH`.

A policy's rate is read against two others, measured by the judge that judges the policy:

- `by lot`: of two references of a prompt, one drawn at random is called the output. Whatever the judge likes,
  the two are as likely swapped, so the rate must come near one half; an interval that leaves 0.5 is a fault
  of the judging, not a finding about people. Its ties say how often the judge sees no difference between two
  human texts.
- `others`: the first reference (the one that a policy is compared with) stays the reference, and another
  person's is the output. This is what people reach by this judge, and the rate to compare a policy's with:
  where it is not 0.5, the choice of who wrote the references moves every policy's rate.

Beside both stand how long the texts are and how many words they share, which need no judge.

Reads SciTLDR's JSONL (`source`, `target`) or a file of demonstrations (`prompt`, `completion`) with several
rows a prompt.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import json
import random
import re
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import read_jsonl
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Source, read
from rlhf.judges.chat_completions import Endpoint
from rlhf.judges.judge import Judge, ScoringJudge, blind_pairs, same
from rlhf.judges.language_model import LlmJudge
from rlhf.judges.reward_model import model_judge
from rlhf.measures.display import figure_text, interval_text, level_text, number, rate_text
from rlhf.measures.length_control import length_controlled_rate, word_count
from rlhf.measures.rates import preference_rate, prompt_means, to_points, wilson

References = dict[str, list[str]]  # prompt -> its references, the first is the one used elsewhere


def read_references(path: Path | str) -> References:
    """Prompts with at least two references that are not the same text.

    Raises:
        DataError: a file that cannot be read, or no prompt with two references.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "test.jsonl"
    references: References = {}
    for prompt, reference in _scitldr(path) or _demonstrations(path):
        texts = references.setdefault(prompt, [])
        if not any(same(reference, text) for text in texts):
            texts.append(reference)
    several = {prompt: texts for prompt, texts in references.items() if len(texts) > 1}
    if not several:
        raise DataError(
            f"{path}: no prompt has two different references, so people cannot be set against people"
        )
    return several


def _scitldr(path: Path) -> list[tuple[str, str]] | None:
    """Prompts and references where the file is SciTLDR's, None where it is another."""
    if path.suffix != ".jsonl" or not path.exists():
        return None
    rows = []
    for line, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row, dict) or "target" not in row:
            return None
        source, targets = row.get("source", []), row["target"]
        lists = isinstance(source, list) and isinstance(targets, list) and source and targets
        if not lists or not all(isinstance(text, str) for text in [*source, *targets]):
            raise DataError(f"{path}: row {line}: source and target must be lists of texts, not empty")
        rows += [(" ".join(source), target.strip()) for target in targets if target.strip()]
    return rows


def _demonstrations(path: Path) -> list[tuple[str, str]]:
    items = read(Source(str(path), layout="demonstrations", named_splits=False), Notes())
    return [(item.row["prompt"], item.row["completion"]) for item in items]


def draw_pairs(references: References, seed: int) -> dict[str, dict[str, list[Any]]]:
    """The two pairings of this module: name -> prompts, references and outputs.

    Returns:
        `by lot` and `others`, one pair a prompt each.
    """
    pairs: dict[str, dict[str, list[Any]]] = {
        name: {"prompts": [], "references": [], "outputs": []} for name in ("by lot", "others")
    }
    for prompt, texts in references.items():
        rng = random.Random(f"{seed}/{prompt}")
        drawn = {"by lot": rng.sample(texts, 2), "others": [texts[0], rng.choice(texts[1:])]}
        for name, (reference, output) in drawn.items():
            pairs[name]["prompts"].append({"prompt": prompt})
            pairs[name]["references"].append(reference)
            pairs[name]["outputs"].append(output)
    return pairs


def control(references: References, judge: Judge, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Both pairings, judged; see this module.

    Args:
        references: see `read_references`.
        judge: the one that judges the policies too.
        confidence: coverage of the intervals, 0..1.
        seed: of what is drawn at random.
    """
    result: dict[str, Any] = {
        "judge": {"name": judge.name, "kind": judge.kind},
        "tie_rule": "a tie counts one half",
        "confidence": confidence,
        "pairings": {},
    }
    for name, pairs in draw_pairs(references, seed).items():
        rows = judge.judge(
            blind_pairs(f"human ({name})", **pairs, split="control", source="references", seed=seed)
        )
        if not rows:
            raise DataError(f"{judge.name} judged no pair, so there is no rate")
        asked = [row["prompt"] for row in rows]
        points = prompt_means(to_points([row["preferred"] for row in rows]), asked)
        longer = {
            row["prompt"]: word_count(output) - word_count(reference)
            for row, reference, output in zip(*pairs.values(), strict=True)
        }
        shared = [overlap(*texts) for texts in zip(pairs["references"], pairs["outputs"], strict=True)]
        result["pairings"][name] = {
            **asdict(preference_rate([row["preferred"] for row in rows], confidence, asked)),
            "length_controlled": asdict(
                length_controlled_rate(
                    points, [longer[prompt] for prompt in dict.fromkeys(asked)], confidence
                )
            ),
            "asked": len(shared),
            "reference_words": fmean(map(word_count, pairs["references"])),
            "output_words": fmean(map(word_count, pairs["outputs"])),
            "overlap": fmean(shared),
            "overlap_interval": wilson(shared, confidence),
        }
    return result


def overlap(first: str, second: str) -> float:
    """Words that two texts share, as F1 (ROUGE-1 without stemming, Lin 2004), 0..1."""
    counts = Counter(_words(first)), Counter(_words(second))
    shared = (counts[0] & counts[1]).total()
    return 2 * shared / sum(count.total() for count in counts) if shared else 0.0


def overlap_judge() -> ScoringJudge:
    """Prefers the text with more of its words from the prompt: crude, but free, exact and blind to order."""

    def score(prompts: list[str], texts: list[str]) -> list[float]:
        scores = []
        for prompt, text in zip(prompts, texts, strict=True):
            known, words = set(_words(prompt)), set(_words(text))
            scores.append(len(words & known) / len(words) if words else 0.0)
        return scores

    return ScoringJudge("word-overlap", "model", score)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def show(result: dict[str, Any]) -> str:
    """The result as a table in plain text."""
    interval = f"{level_text(result['confidence'])} Wilson"
    lines = [
        f"{'pairing':<8} {'preferred':>9}  {interval:<14} {'n':>5} {'ties':>5}  "
        f"{'at equal length':<22}  {'words':<10} {'shared words (F1)':<22}"
    ]
    for name, row in result["pairings"].items():
        lengths = f"{number(row['output_words'], 1)}/{number(row['reference_words'], 1)}"
        lines.append(
            f"{name:<8} {number(row['rate']):>9}  {interval_text(row)} {row['n']:>5} {row['ties']:>5}  "
            f"{rate_text(row['length_controlled'])}  {lengths:<10} {figure_text(row, 'overlap')}"
        )
    judge, lot = result["judge"], result["pairings"]["by lot"]
    verdict = "holds 0.5, as it must."
    if not lot["low"] <= 0.5 <= lot["high"]:
        verdict = (
            "misses 0.5: chance does that for one seed in twenty, a judge that likes a position for all."
        )
    lines += [
        "",
        f"Human reference against human reference; judge: {judge['name']} ({judge['kind']}); "
        f"{result['tie_rule']}; words: output/reference.",
        f"by lot: the interval {verdict}",
    ]
    return "\n".join(lines)


def main(command_line: list[str] | None = None) -> int:
    """The command; 0 when all went well, 1 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reference_control",
        description="Human references against human references of the same prompts, by one judge.",
        epilog="The rate `by lot` must come near 0.5; the rate `others` is what people reach by this judge.",
    )
    parser.add_argument(
        "path", metavar="PATH", help="SciTLDR's JSONL or its folder (test split), or demonstrations"
    )
    parser.add_argument(
        "--judge",
        default="overlap",
        metavar="JUDGE",
        help="overlap (words shared with the prompt: free and crude), reward-model:FOLDER, or llm:URL with "
        "--model (default: %(default)s)",
    )
    parser.add_argument("--model", help="of an llm judge")
    parser.add_argument(
        "--cache", default=".state/llm-judge.jsonl", help="answers of an llm judge (default: %(default)s)"
    )
    parser.add_argument(
        "--max-requests", type=int, default=2000, help="of an llm judge (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is drawn at random (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(command_line)
    try:
        result = control(read_references(arguments.path), _judge(arguments), seed=arguments.seed)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if arguments.json else show(result))
    return 0


def _judge(arguments: argparse.Namespace) -> Judge:
    kind, _, where = arguments.judge.partition(":")
    if kind == "overlap" and not where:
        return overlap_judge()
    if kind == "reward-model" and where:
        return model_judge(f"reward-model {where}", where, [])
    if kind == "llm" and where and arguments.model:
        return LlmJudge(
            Endpoint(where, arguments.model), arguments.cache, max_requests=arguments.max_requests
        )
    raise DataError(
        f"no judge {arguments.judge!r}; give overlap, reward-model:FOLDER, or llm:URL together with --model "
        "NAME"
    )


if __name__ == "__main__":
    sys.exit(main())
