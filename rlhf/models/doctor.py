"""What can silently go wrong between a row and a loss: checks on a model, its tokenizer, its template, rows.

Each check says what it saw, what that means and how to mend it. These run no model; every training runs them
at its start and stops at the first that fails (`refuse_unsound`). `make doctor` runs them and those of
`rlhf.models.model_checks` before any training.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlhf.data.errors import DataError
from rlhf.models.chat import Chat
from rlhf.models.template import Row, Template, answered
from rlhf.models.tokenizer_files import check_tokenizer

ROWS = 32  # rows that a check reads at most: the faults of a template show in the first


@dataclass(frozen=True)
class Finding:
    """What a check saw.

    Attributes:
        name: of the check.
        ok: None where it could not be tried.
        seen: in words.
        means: why it matters.
        mend: what to do if it failed.
    """

    name: str
    ok: bool | None
    seen: str
    means: str
    mend: str

    @property
    def line(self) -> str:
        """What failed and how to mend it, as an error says it."""
        return f"{self.name}: {self.seen}; {self.means[0].lower()}{self.means[1:]} {self.mend}"


class Model(Protocol):
    """What the cheap checks look at: a `Policy`, or a `RewardModel`."""

    model: Any
    tokenizer: Any
    template: Template
    pad: int


@dataclass(frozen=True)
class Answered:
    """Some rows with their answers, as ids.

    Attributes:
        rows, texts: the rows and the answers' texts.
        prompts, answers: their ids.
    """

    rows: Sequence[Row]
    texts: Sequence[str]
    prompts: list[list[int]]
    answers: list[list[int]]


def refuse_unsound(model: Model, demonstrations: Sequence[Row], folder: Path | str | None = None) -> None:
    """Run the cheap checks at the start of a training.

    Args:
        demonstrations: rows with a `completion`; the first `ROWS` are read.
        folder: of the model, whose tokenizer file is compared.

    Raises:
        DataError: the first check that failed, with what to do.
    """
    for finding in cheap_checks(model, demonstrations, folder):
        if finding.ok is False:
            raise DataError(finding.line)


def cheap_checks(
    model: Model, demonstrations: Sequence[Row], folder: Path | str | None = None
) -> list[Finding]:
    """The checks that run no model."""
    rows = demonstrations[:ROWS]
    texts = [row["completion"] for row in rows]
    try:
        prompts = model.template.prompts(rows)
        read = Answered(rows, texts, prompts, model.template.pairs(rows, texts)[1])
    except DataError as error:
        return [_turns_whole(str(error)), *_of_tokens(model, folder)]
    checks: list[Callable[[Model, Answered], Finding]] = [
        _prefix,
        _end_learnt,
        _bos_once,
        _text_stays_text,
        _two_days,
        _back_to_text,
    ]
    return [_turns_whole(None), *(check(model, read) for check in checks), *_of_tokens(model, folder)]


def _of_tokens(model: Model, folder: Path | str | None) -> list[Finding]:
    return [_pad_apart(model), _own_file(model, folder)]


def _turns_whole(error: str | None) -> Finding:
    return Finding(
        "every turn stands in the rendering",
        error is None,
        error or "each turn's text, in order and whole up to white space around it",
        "Templates trim, move and drop turns, and what is dropped is never learnt.",
        "Mend the row, or set base.template to a file whose template writes such turns.",
    )


def _prefix(model: Model, read: Answered) -> Finding:
    """Whether the ids of a prompt begin those of the whole; both ways are right, and it is said which."""
    template = model.template
    chats = [i for i, row in enumerate(read.rows) if row.get("messages") is not None]
    name, means = (
        "the prompt begins the whole",
        "Generation starts from the prompt's ids, so training must see the same ones.",
    )
    apart = [
        i
        for i in chats
        if isinstance(template, Chat)
        and template.whole(read.rows[i], read.texts[i])[: len(read.prompts[i])] != read.prompts[i]
    ]
    sequences, _ = answered(template, read.rows, read.texts, 1 << 30)
    other = sum(ids[: len(p)] != p for ids, p in zip(sequences, read.prompts, strict=True))
    if other:
        seen = f"{other} training sequences begin otherwise than the prompt that generation starts from"
    elif not chats:
        seen = "prompt and answer are texts, read apart and joined as ids"
    elif not apart:
        seen = f"in {len(chats)} of {len(chats)} conversations"
    else:
        seen = (
            f"not in {len(apart)} of {len(chats)} conversations as their template writes them; their answer "
            "is the ids of its own text and the token that ends the turn, behind the prompt of generation"
        )
    return Finding(name, not other, seen, means, "Take another template, or base.template: plain.")


def _end_learnt(model: Model, read: Answered) -> Finding:
    stops = set(model.template.stops)
    bad = [
        i
        for i, ids in enumerate(read.answers)
        if not ids or ids[-1] not in stops or not stops.isdisjoint(ids[:-1])
    ]
    ends = sorted({model.tokenizer.convert_ids_to_tokens(ids[-1]) for ids in read.answers if ids})
    return Finding(
        "the end of the turn is learnt, and nothing behind it",
        not bad,
        f"{len(bad)} of {len(read.answers)} answers do not end with the one token that ends a turn"
        if bad
        else f"answers end with {', '.join(map(repr, ends))}",
        "A model that never learns the end goes on until its length runs out; scores are read at that token.",
        "Give the template a token that ends a turn, and the tokenizer that token as EOS.",
    )


def _bos_once(model: Model, read: Answered) -> Finding:
    tokenizer = model.tokenizer
    bos = tokenizer.bos_token_id
    name = "BOS stands at the start, once"
    means = "Two BOS, or none where the model was trained with one, move every later token off its place."
    mend = "Take BOS out of the template, or set add_bos_token in tokenizer_config.json."
    wanted = list(getattr(getattr(model.template, "plain", model.template), "start", []))
    if bos is None or bos in model.template.stops or bos not in wanted:
        return Finding(name, True, "this tokenizer writes none", means, mend)
    counts = [ids.count(bos) for ids in read.prompts]
    bad = [i for i, ids in enumerate(read.prompts) if counts[i] != 1 or ids[0] != bos]
    seen = f"{tokenizer.bos_token!r} begins all {len(counts)} prompts"
    if bad:
        seen = f"prompt {bad[0] + 1} has {counts[bad[0]]} of {tokenizer.bos_token!r}"
    return Finding(name, not bad, seen, means, mend)


def _text_stays_text(model: Model, read: Answered) -> Finding:
    """A text that spells every special token, as a user may write it, must come out without any of them."""
    tokenizer, template = model.tokenizer, model.template
    special = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    special.pop(tokenizer.unk_token_id, None)
    name = "a user's text makes no special token"
    means = "A user who types the token that ends a turn would end it, and could write turns of others."
    mend = "This tokenizer reads the spelling only as the token; take one with a tokenizer.json."
    chosen = list(special.values())[:16]
    row = read.rows[0] if read.rows else {"prompt": "a", "messages": None}
    plain, spelled = _with_text(row, "a b"), _with_text(row, f"a {' '.join(chosen)} b")
    try:
        before, after = (sum(i in special for i in template.prompt(r)) for r in (plain, spelled))
    except DataError as error:
        return Finding(name, True, f"such a text is refused: {error}", means, mend)
    seen = f"a text that spells {len(chosen)} of them has none" if chosen else "this tokenizer has none"
    if after != before:
        seen = f"a text that spells {', '.join(chosen[:3])} brings {after - before} special tokens"
    return Finding(name, after == before, seen, means, mend)


def _with_text(row: Row, text: str) -> Row:
    """A row whose last turn, or whose prompt, is this text."""
    if row.get("messages") is None:
        return {"prompt": text, "messages": None}
    turns = [*row["messages"][:-1], {**row["messages"][-1], "content": text}]
    return {"prompt": text, "messages": turns}


def _two_days(model: Model, read: Answered) -> Finding:
    """Render without a clock: a template that reads one fails, and one whose date is pinned does not."""
    template, changed = copy.copy(model.template), len(read.rows)
    if isinstance(template, Chat):
        template.arguments = {**template.arguments, "strftime_now": None}
    with suppress(DataError):
        prompts = template.prompts(read.rows)
        changed = sum(a != b for a, b in zip(prompts, read.prompts, strict=True))
    return Finding(
        "the same ids on two days",
        not changed,
        f"{changed} prompts hold the date of the day" if changed else "no prompt depends on the clock",
        "Some templates write today's date, so that a model is served other tokens than it was trained on.",
        "Set base.template_arguments.today to a date.",
    )


def _back_to_text(model: Model, read: Answered) -> Finding:
    template, tokenizer = model.template, model.tokenizer
    unknown, composed, lost = 0, 0, []
    for row, text, ids in zip(read.rows, read.texts, read.answers, strict=True):
        back = template.text(ids, row)
        if back.strip() == text.strip():
            continue
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            unknown += 1
        elif unicodedata.normalize("NFC", text).strip() == back.strip():
            composed += 1
        else:
            lost.append((text, back))
    parts = [f"{len(read.texts) - len(lost) - unknown} of {len(read.texts)} answers come back whole"]
    if unknown:
        parts.append(f"{unknown} hold words that this tokenizer does not know")
    if composed:
        parts.append(f"{composed} of them with letters composed (Unicode NFC)")
    if lost:
        parts.append(f"{lost[0][0][:40]!a} comes back as {lost[0][1][:40]!a}")
    return Finding(
        "ids give the text back",
        not lost,
        "; ".join(parts),
        "People and judges read the text, the model its ids: both must be the same answer.",
        "Take what is lost out of the text, such as a closing thinking tag, or take another template.",
    )


def _pad_apart(model: Model) -> Finding:
    tokenizer, pad = model.tokenizer, model.pad
    rows = model.model.get_input_embeddings().weight.shape[0]
    problem = ""
    if pad is None:
        problem = "there is no pad token"
    elif pad in model.template.stops:
        problem = f"the pad token {tokenizer.convert_ids_to_tokens(pad)!r} also ends an answer"
    elif pad >= rows:
        problem = f"the pad token has id {pad}, the embeddings have {rows} rows"
    return Finding(
        "the pad token is one of its own",
        not problem,
        problem or f"{tokenizer.convert_ids_to_tokens(pad)!r}, id {pad} of {rows}",
        "Where pad is EOS, the end of an answer is masked with the padding, and is never learnt.",
        "Bring the model in through the stage base, which settles a pad token.",
    )


def _own_file(model: Model, folder: Path | str | None) -> Finding:
    name = "the tokenizer's ids are those of its file"
    means = "transformers rebuilds some tokenizers from their class, and then reads texts as other ids."
    mend = 'Set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json.'
    if folder is None or not Path(folder, "tokenizer.json").exists():
        return Finding(name, None, "there is no tokenizer.json to compare with", means, mend)
    try:
        check_tokenizer(folder, model.tokenizer)
    except DataError as error:
        return Finding(name, False, str(error), means, mend)
    return Finding(name, True, f"{len(model.tokenizer)} tokens, the same ids", means, mend)
