"""A prompt and a list of answers, each with its own rank or score: Nectar, UltraFeedback, NeMo-RL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.aspects import deciding, weight_of
from rlhf.data.layouts.instructions import INPUTS, PROMPTS
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.pairs import prompted
from rlhf.data.layouts.turns import turns_of
from rlhf.data.layouts.values import COMMON, common, comparison, filled, number_of, weighted

LISTS = ("answers", "completions", "responses", "outputs", "candidates", "generations", "replies")
_TEXTS = ("answer", "response", "completion", "text", "content", "output", "generation", "message")
_RANKS = ("rank", "ranking")
_SCORES = ("overall_score", "score", "rating", "fine-grained_score", "reward")
_CHOSEN = (
    "is_best",
    "best",
    "chosen",
    "is_chosen",
    "preferred",
    "is_preferred",
    "selected",
    "is_selected",
    "winner",
)
_BY_ASPECT = ("scores", "ratings", "rating", "score", "aspects", "attributes", "rewards")
_MODELS = ("model", "policy", "model_name", "source", "name", "system")


def _lists(columns: Mapping[str, str]) -> list[str]:
    return [name for name in LISTS if columns.get(name) == "objects"]


def _asks(columns: Mapping[str, str]) -> str | None:
    return next((name for name in PROMPTS if is_a(columns, name, "text|messages")), None)


def _fits(columns: Mapping[str, str]) -> bool:
    return len(_lists(columns)) == 1 and _asks(columns) is not None


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        answers = next(
            columns[name] for name in LISTS if isinstance(columns.get(name), list) and columns[name]
        )
        texts = [_text(answer, record.where, notes) for answer in answers]
        name = next((name for name in PROMPTS if filled(columns.get(name))), "")
        if not name:
            raise DataError("no column is the prompt; name it in ingest.columns")
        prompt = prompted(columns[name], record, notes, columns.get("system"), name)
        judged = _ranked(answers, options, notes)
        if len(texts) - list(judged["ranking"]).count(None) < 2:
            notes.pass_over("prompts with fewer than two judged answers", record.where)
            continue
        policies = [next((a[m] for m in _MODELS if isinstance(a.get(m), str)), "") for a in answers]
        yield comparison(
            prompt, texts, **judged, policies=policies if any(policies) else None, **common(columns)
        )


def _text(answer: Mapping[str, Any], where: str, notes: Notes) -> str:
    key = next((key for key in _TEXTS if key in answer), None)
    if key is None:
        raise DataError(
            f"an answer has no text among {', '.join(answer)}; it must be one of {', '.join(_TEXTS)}"
        )
    said = answer[key]
    if isinstance(said, (list, Mapping)):
        turns = turns_of(said, where, notes)
        if [turn["role"] for turn in turns] != ["assistant"]:
            raise DataError(f"{key} must be one message of the assistant's")
        return turns[0]["content"]
    return text_of(said, key)


def _ranked(answers: Sequence[Mapping[str, Any]], options: Options, notes: Notes) -> dict[str, Any]:
    """`ranking`, and `scores` where there are any."""
    for key in _RANKS:
        if any(filled(answer.get(key)) for answer in answers):
            ranks = [_number(answer.get(key), key) for answer in answers]
            best = options.direction or "lower"
            notes.say(f"the answers' {key}: the {best} is the better (ingest.direction says otherwise)")
            return {"ranking": [r if r is None or best == "lower" else -r for r in ranks]}
    for key in _CHOSEN:
        if all(isinstance(answer.get(key), bool) for answer in answers):
            notes.say(f"the answers' {key}: those that have it are better than the others")
            return {"ranking": [1 if answer[key] else 2 for answer in answers]}
    aspects = any(isinstance(answer.get("annotations"), Mapping) for answer in answers)
    by_aspect = next(
        (key for key in _BY_ASPECT if any(_is_object(answer.get(key)) for answer in answers)), None
    )
    score = next(
        (k for k in _SCORES if any(filled(a.get(k)) and not _is_object(a[k]) for a in answers)), None
    )
    if aspects and (options.aspects or score is None):
        scores = [_aspects(answer.get("annotations") or {}, options, notes) for answer in answers]
    elif by_aspect and (options.aspects or score is None):
        objects = [answer.get(by_aspect) or {} for answer in answers]
        keys = dict.fromkeys(key for ratings in objects for key in ratings)
        chosen = deciding(keys, f"the answers' {by_aspect}", options, notes)
        scores = [weight_of(ratings, chosen, by_aspect) for ratings in objects]
    elif score is None:
        raise DataError(
            f"the answers have neither rank nor score among {', '.join(answers[0])}; known are "
            f"{', '.join((*_RANKS, *_SCORES))}"
        )
    else:
        scores = [_number(answer.get(score), score) for answer in answers]
        best = options.direction or "higher"
        notes.say(f"the answers' {score}: the {best} is the better (ingest.direction says otherwise)")
        if best == "lower":
            return {"ranking": scores}
    # A score of its own for each answer that has one; without all of them only their order is kept.
    return {"ranking": [None if value is None else -value for value in scores], "scores": scores}


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _number(value: Any, column: str) -> float | None:
    return number_of(value, column) if filled(value) and value != "N/A" else None


def _aspects(annotations: Mapping[str, Any], options: Options, notes: Notes) -> float | None:
    """UltraFeedback's annotations, aspect -> `{Rating: "4", Rationale: ...}`; their mean by default."""
    ratings = {
        name: told.get("Rating") if isinstance(told, Mapping) else told for name, told in annotations.items()
    }
    ratings = {name: None if rating == "N/A" else rating for name, rating in ratings.items()}
    if options.aspects:
        return weighted(ratings, options, "", notes)
    known = [number_of(rating, "Rating") for rating in ratings.values() if filled(rating)]
    notes.say("ratings by aspect: their mean decides, higher is better (ingest.aspects says which count)")
    return sum(known) / len(known) if known else None


LAYOUT = Layout(
    name="answers",
    about="a prompt and a list of answers, each with its rank or score (Nectar, UltraFeedback, NeMo-RL)",
    columns="`prompt`, `answers[{answer, model, rank}]`; `instruction`, `completions[{response, model, "
    "overall_score, annotations}]`; `context`, `completions[{rank, completion}]`",
    fits=_fits,
    rows=_rows,
    own=COMMON | {*LISTS, *PROMPTS, *INPUTS},
)
