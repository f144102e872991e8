"""How often people prefer each system to the human reference: `python -m benchmarks.ratings PATH`.

Reads a JSONL file, or a folder that holds `lqual.jsonl`, with one rated text a line, as in the CNN/DailyMail
ratings of Chaganty, Mussmann and Liang 2018 (The Price of Debiasing Automatic Metrics, ACL):

    {"id": "002494", "system": "pointer", "annotators": [0, 1], "prompts": {"overall": {"human": [0, 1]}}}

One `id` is one article; the rows of system `reference` are the human-written texts. A system is preferred on
an article where the mean of its ratings is above that of the reference's; equal means are a tie and count one
half.

For prompts with several human references, `python -m benchmarks.reference_control PATH` sets people
against people.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import read_jsonl
from rlhf.measures.agreement import agreement
from rlhf.measures.display import figure_text, interval_text, level_text, number
from rlhf.measures.rates import preference_rate

FILE = "lqual.jsonl"


@dataclass(frozen=True)
class Rated:
    """One row: a system's text about an article, rated by some annotators."""

    article: str
    system: str
    ratings: dict[str, float]  # annotator -> rating


def read_ratings(path: Path | str, axis: str = "overall") -> list[Rated]:
    """Ratings on one axis; see this module for the file.

    Raises:
        DataError: no such file, a row that lacks something, or an axis that is not there.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE
    if not path.exists():
        raise DataError(f"{path}: no such file; give a JSONL file of ratings or a folder that holds {FILE}")
    rows = []
    for line, row in enumerate(read_jsonl(path), start=1):
        where = f"{path}: row {line}"
        try:
            article, system, axes = str(row["id"]), str(row["system"]), dict(row["prompts"])
            annotators = [str(annotator) for annotator in row["annotators"]]
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{where}: needs id, system, annotators and prompts; see benchmarks/ratings.py"
            ) from None
        try:
            ratings = axes[axis]["human"]
        except (KeyError, TypeError):
            raise DataError(f"{where}: no ratings on {axis!r}; it has {', '.join(axes)}") from None
        lists = isinstance(ratings, list) and isinstance(row["annotators"], list)
        if not lists or not ratings or len(set(annotators)) != len(ratings):
            raise DataError(f"{where}: needs one rating an annotator, as lists of equal length")
        if not all(type(rating) in (int, float) and isfinite(rating) for rating in ratings):
            raise DataError(f"{where}: ratings must be numbers, got {str(ratings)[:60]}")
        rows.append(Rated(article, system, dict(zip(annotators, ratings, strict=True))))
    if not rows:
        raise DataError(f"{path}: no rows; it needs one rated text a line")
    return rows


def evaluate(rows: list[Rated], reference: str = "reference", confidence: float = 0.95) -> dict[str, Any]:
    """Each system against the reference, and how far the annotators agree.

    Args:
        rows: see `read_ratings`. Where a system has several rows on one article, all their ratings count.
        reference: the system that is the human reference.
        confidence: coverage of the intervals, 0..1.

    Returns:
        `systems` by falling rate: rate, Wilson interval (low, high), n articles, wins, ties, losses, mean
        rating of its rows; `agreement` of the annotators over all rows, None where no text has two.

    Raises:
        DataError: no rows of the reference, or none of another system on the same articles.
    """
    by_system: dict[str, dict[str, list[float]]] = {}  # system -> article -> ratings
    for row in rows:
        by_system.setdefault(row.system, {}).setdefault(row.article, []).extend(row.ratings.values())
    if reference not in by_system:
        raise DataError(
            f"no rows of system {reference!r}, so nothing to compare with; "
            f"there are {', '.join(sorted(by_system))}"
        )
    rating = {
        system: fmean(fmean(row.ratings.values()) for row in rows if row.system == system)
        for system in by_system
    }
    theirs = by_system.pop(reference)
    systems = {}
    for system, articles in sorted(by_system.items()):
        preferred = [
            _better(fmean(mine), fmean(theirs[article]))
            for article, mine in articles.items()
            if article in theirs
        ]
        if preferred:
            systems[system] = {
                **asdict(preference_rate(preferred, confidence)),
                "mean_rating": rating[system],
            }
    if not systems:
        raise DataError(f"no article has both a {reference} and another system, so nothing can be compared")
    return {
        "judge": {"name": "annotators", "kind": "human"},
        "reference": reference,
        "reference_mean_rating": rating[reference],
        "tie_rule": "equal mean ratings are a tie and count one half",
        "confidence": confidence,
        "systems": dict(sorted(systems.items(), key=lambda item: -item[1]["rate"])),
        "agreement": _agreement(rows, confidence),
    }


def _agreement(rows: list[Rated], confidence: float) -> dict[str, Any] | None:
    """How far annotators agree on texts that several rated; None where no text has two ratings.

    Files may have a row for each annotator: rows of one annotator each, about one system's text on one
    article, are one text, as long as nobody rated it twice.
    """
    texts: list[dict[str, float]] = []
    place: dict[tuple[str, str], int] = {}
    for row in rows:
        key = row.article, row.system
        alone = len(row.ratings) == 1
        if alone and key in place and not row.ratings.keys() & texts[place[key]].keys():
            texts[place[key]] |= row.ratings
            continue
        texts.append(dict(row.ratings))
        if alone:
            place[key] = len(texts) - 1
    if all(len(ratings) < 2 for ratings in texts):
        return None
    return agreement(dict(enumerate(texts)), confidence).as_dict()


def _better(mine: float, theirs: float) -> str:
    return "output" if mine > theirs else "reference" if mine < theirs else "tie"


def show(result: dict[str, Any]) -> str:
    """The result as a table in plain text."""
    interval = f"{level_text(result['confidence'])} Wilson"
    lines = [
        f"{'system':<12} {'preferred':>9}  {interval:<14} {'n':>5}"
        f" {'wins':>5} {'ties':>5} {'losses':>6} {'rating':>7}"
    ]
    for name, row in result["systems"].items():
        lines.append(
            f"{name:<12} {number(row['rate']):>9}  {interval_text(row):<14} {row['n']:>5}"
            f" {row['wins']:>5} {row['ties']:>5} {row['losses']:>6} {number(row['mean_rating']):>7}"
        )
    lines += [
        "",
        f"Preferred to {result['reference']} (mean rating {number(result['reference_mean_rating'])}); "
        f"judges: people; {result['tie_rule']}.",
    ]
    annotators = result["agreement"]
    if annotators is None:
        return "\n".join(
            [*lines, "No text was rated by two annotators, so nothing is known of how far they agree."]
        )
    alpha = "undefined" if annotators["alpha"] is None else figure_text(annotators, "alpha")
    lines += [
        f"{annotators['judges']} annotators, {annotators['n']} texts: raw agreement "
        f"{figure_text(annotators, 'raw')}, Krippendorff's alpha (nominal) {alpha}.",
    ]
    return "\n".join(lines)


def main(command_line: list[str] | None = None) -> int:
    """The command; 0 when all went well, 1 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ratings",
        description="How often people prefer each system to the human reference, from ratings.",
        epilog="Several human references a prompt? python -m benchmarks.reference_control sets one against "
        "another.",
    )
    parser.add_argument("path", metavar="PATH", help=f"JSONL file of ratings, or a folder that holds {FILE}")
    parser.add_argument("--axis", default="overall", help="what was rated (default: %(default)s)")
    parser.add_argument("--reference", default="reference", help="system that is the human reference")
    parser.add_argument(
        "--confidence", type=_share, default=0.95, help="of the intervals (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(command_line)
    try:
        result = evaluate(
            read_ratings(arguments.path, arguments.axis), arguments.reference, arguments.confidence
        )
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result = {"axis": arguments.axis, **result}
    print(json.dumps(result, indent=2) if arguments.json else show(result))
    return 0


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
