"""What a labeler's answer means: from what was chosen on the screen to what is stored, and how right it is.

On the screen the outputs are in a shuffled order; a stored answer has them in the item's order:

    compare  {"ranking": [1, 2], "both_bad": false}     rank  {"ranking": [1, null, 2]}  (null: not ranked)
    vote     {"vote": "up"}                             edit  {"text": "..."}
    judge    {"preferred": "output"}                    1 is best; equal ranks are ties; ranks are dense
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from labeling.rows import clean
from rlhf.data.errors import DataError
from rlhf.data.rankings import agreement_on_pairs, dense_ranks

SCALE = 9  # 1: the left is much better, 5: no difference, 9: the right is much better


class Choice(BaseModel):
    """What a labeler chose, in the order shown. Which field counts depends on the kind of the item."""

    model_config = ConfigDict(extra="forbid")

    scale: int | None = Field(
        None, ge=1, le=SCALE, description="compare: 1 left much better, 5 tie, 9 right much better"
    )
    both_bad: bool = Field(False, description="compare: neither output is acceptable")
    ranks: list[int | None] | None = Field(
        None,
        max_length=9,
        description="rank: a rank for each output shown, 1 best, equal ranks tie, null unranked",
    )
    vote: Literal["up", "down"] | None = Field(None, description="vote")
    text: str | None = Field(None, max_length=100_000, description="edit: what the output should be")
    side: Literal["left", "tie", "right"] | None = Field(None, description="judge")


def understand(
    kind: str, choice: Choice, shown: Sequence[int], outputs: Sequence[str]
) -> tuple[dict[str, Any], int | None]:
    """The stored answer of a choice, and its strength, 1 (unsure) to 9, where the kind has one.

    Args:
        kind: what was asked.
        choice: what was chosen.
        shown: `shown[j]` is the index of the output at position j.
        outputs: the item's outputs.

    Raises:
        DataError: the choice does not answer this kind of item.
    """
    if kind == "compare":
        if choice.both_bad:
            return {"ranking": [1, 1], "both_bad": True}, None
        if choice.scale is None:
            raise DataError("choose a point of the scale, or that both are bad")
        left, right = (1, 2) if choice.scale < 5 else (2, 1) if choice.scale > 5 else (1, 1)
        compared = [0, 0]
        compared[shown[0]], compared[shown[1]] = left, right
        return {"ranking": compared, "both_bad": False}, 1 + 2 * abs(choice.scale - 5)
    if kind == "rank":
        sent, number = choice.ranks or [], len(outputs)
        ranks = [*sent, *[None] * number][:number]
        if any(rank is not None for rank in sent[number:]):
            raise DataError(f"there are {number} outputs to rank")
        if any(rank is not None and not 1 <= rank <= len(outputs) for rank in ranks):
            raise DataError(f"a rank lies between 1 and {len(outputs)}")
        if sum(rank is not None for rank in ranks) < 2:
            raise DataError("rank at least two outputs, or skip")
        ranking: list[int | None] = [None] * len(outputs)
        for position, rank in enumerate(dense_ranks(ranks)):
            ranking[shown[position]] = rank
        return {"ranking": ranking}, None
    if kind == "vote":
        if choice.vote is None:
            raise DataError("vote up or down")
        return {"vote": choice.vote}, None
    if kind == "edit":
        return {"text": clean(choice.text or "", "the edited text").strip().replace("\r\n", "\n")}, None
    if choice.side is None:
        raise DataError("choose left, tie or right")
    names = ("output", "reference")
    sides = {"left": names[shown[0]], "right": names[shown[1]], "tie": "tie"} if len(shown) > 1 else {}
    return {"preferred": sides[choice.side]}, None


def check_expected(kind: str, expected: Any, outputs: int) -> None:
    """Refuse an expected answer that no labeler could give.

    Raises:
        DataError: with an example of what the kind needs.
    """
    needs = {
        "compare": '{"ranking": [1, 2]}',
        "rank": '{"ranking": [2, 1, 3]}, a number for each output',
        "vote": '{"vote": "up"}',
        "judge": '{"preferred": "output"}',
    }
    if kind not in needs:
        raise DataError(f"a queue to {kind} has no gold or onboarding items: there is no single right answer")
    fits = isinstance(expected, dict)
    if fits and kind in ("compare", "rank"):
        ranking = expected.get("ranking")
        fits = (
            isinstance(ranking, list)
            and len(ranking) == outputs
            and all(isinstance(rank, int) for rank in ranking)
        )
    elif fits and kind == "vote":
        fits = expected.get("vote") in ("up", "down")
    elif fits:
        fits = expected.get("preferred") in ("output", "reference", "tie")
    if not fits:
        raise DataError(f"a gold or onboarding item to {kind} needs 'expected', e.g. {needs[kind]}")


def agreement(answer: dict[str, Any], other: dict[str, Any]) -> float | None:
    """How far two answers to one item agree, 0 to 1: over pairs of outputs that both ranked (a tie against a
    preference is half), else whether they are equal; None where nothing can be compared."""
    if "ranking" in answer and "ranking" in other:
        by_pair = agreement_on_pairs(answer["ranking"], other["ranking"])
        return sum(by_pair) / len(by_pair) if by_pair else None
    for name in ("vote", "preferred"):
        if name in answer and name in other:
            if name == "preferred" and answer[name] != other[name] and "tie" in (answer[name], other[name]):
                return 0.5
            return float(answer[name] == other[name])
    return None
