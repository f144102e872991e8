"""Control tokens: which they are, and how text that spells one stays text wherever it becomes ids.

A control token is an added token that means something to a model beyond its letters: a special token, the
marker of a turn, a thinking tag. Added runs of blanks, HTML tags and words are ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from rlhf.data.errors import DataError

# Around each control token that a text spells, so that it is told apart from those a template writes. Unicode
# promises that these two are never characters of a text.
_START, _END = "\ufdd0", "\ufdd1"

_BRACKETS = re.compile(r"[<\[{|＜｜◁].*[>\]}|＞｜▷]", re.DOTALL)
_HTML = re.compile(
    r"</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|s|sub|sup|code|pre|p|a|br|hr"
    r"|html|head|body|img|span|bbox|ul|ol|li|div|iframe|header|footer|section)/?>"
)


@dataclass(frozen=True)
class Controls:
    """A tokenizer's control tokens.

    Attributes:
        ids: their ids, without that of unknown words.
        eats: those that take the blanks behind them along.
        pattern: finds their spellings.
        marked: finds a spelling with its marks, or with the one that a template has left it, or without.
    """

    ids: frozenset[int]
    eats: frozenset[str]
    pattern: re.Pattern[str]
    marked: re.Pattern[str]

    def mark(self, text: str) -> str:
        """A text with marks around each control token that it spells.

        Raises:
            DataError: the text holds a mark.
        """
        if _START in text or _END in text:
            raise DataError(f"{text[:60]!r} holds U+FDD0 or U+FDD1, which are no characters; remove them")
        return self.pattern.sub(rf"{_START}\g<0>{_END}", text)

    def unmarked(self, text: str) -> list[re.Match[str]]:
        """The control tokens in a text that have no mark."""
        return [t for t in self.marked.finditer(text) if t[0][0] != _START and t[0][-1] != _END]


_KNOWN: WeakKeyDictionary[Any, tuple[tuple[int, str], Controls]] = WeakKeyDictionary()


def controls_of(tokenizer: Any) -> Controls:
    """The control tokens of a tokenizer and its chat template. Kept, for some tokenizers have thousands."""
    written = str(tokenizer.chat_template or "")
    key = (len(tokenizer), written)
    kept = _KNOWN.get(tokenizer)
    if kept is None or kept[0] != key:
        tokens = {
            i: token.content
            for i, token in tokenizer.added_tokens_decoder.items()
            if _controls(token, written)
        }
        ids = frozenset(tokens)
        if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
            ids -= {tokenizer.unk_token_id}
        # Tokens that differ in a number only (<unused17>) are one alternative: a text is searched in no time.
        spelled = sorted({re.sub(r"\d+", r"\\d+", re.escape(text)) for text in tokens.values()}, key=len)
        pattern = "|".join(reversed(spelled)) or "(?!)"
        marked = re.compile(f"{_START}?(?:{pattern}){_END}?")
        eats = frozenset(t.content for t in tokenizer.added_tokens_decoder.values() if t.rstrip)
        kept = _KNOWN[tokenizer] = key, Controls(ids, eats, re.compile(pattern), marked)
    return kept[1]


def _controls(token: Any, written: str) -> bool:
    text = token.content
    if token.special or not text.strip(" \n\r\t▁"):
        return bool(token.special)
    return text in written or bool(_BRACKETS.fullmatch(text) and not _HTML.fullmatch(text))


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts; control tokens that are marked become the ids of their letters, others themselves.

    Raises:
        DataError: the tokenizer can read the spelling of a control token only as that token.
    """
    if not texts:
        return []
    controls = controls_of(tokenizer)
    plain = [text for text in texts if _START not in text and _END not in text]
    rows = iter(tokenizer(plain, add_special_tokens=False)["input_ids"] if plain else [])
    encoded = []
    for text in texts:
        if _START in text or _END in text:
            encoded.append(_encode_marked(tokenizer, text))
            continue
        row = next(rows)
        # A tokenizer may read other letters as a control token too, after it has made them alike.
        if sum(map(controls.ids.__contains__, row)) > len(controls.pattern.findall(text)):
            _refuse(tokenizer, text, row)
        encoded.append(row)
    return encoded


def _encode_marked(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text with marks: between the control tokens without marks, everything is letters."""
    controls = controls_of(tokenizer)
    ids: list[int] = []
    at = 0
    for token in controls.unmarked(text):
        ids += _letters(tokenizer, text[at : token.start()])
        ids += tokenizer(token[0], add_special_tokens=False)["input_ids"]
        at = token.end()
        if token[0] in controls.eats:
            at += len(text[at:]) - len(text[at:].lstrip())
    return ids + _letters(tokenizer, text[at:])


def _letters(tokenizer: Any, marked: str) -> list[int]:
    """Ids of a text in which no control token is read."""
    text = marked.replace(_START, "").replace(_END, "")
    if not text:
        return []
    if text == marked:
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    controls = controls_of(tokenizer).ids
    if not controls.isdisjoint(ids):
        # Only special tokens were split; the tokenizer's own steps without added tokens split the others.
        backend = tokenizer.backend_tokenizer
        plain = backend.normalizer.normalize_str(text) if backend.normalizer is not None else text
        words = [plain]
        if backend.pre_tokenizer is not None:
            words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain)]
        ids = [token.id for word in words for token in backend.model.tokenize(word)]
    if not controls.isdisjoint(ids):
        _refuse(tokenizer, text, ids)
    return ids


def _refuse(tokenizer: Any, text: str, row: list[int]) -> None:
    token = tokenizer.convert_ids_to_tokens(next(i for i in row if i in controls_of(tokenizer).ids))
    raise DataError(f"this tokenizer reads {token!r} in {text[:60]!r} as its special token; remove it")
