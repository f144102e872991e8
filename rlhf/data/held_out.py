"""What is held out for evaluation, and which texts give it away.

A text gives a held-out text away if it holds all its words in order, whatever their case, punctuation and
white space, and whatever stands around them. Held-out texts of fewer than `LEAST` words are looked for only
at the beginning of a text: short answers are met by chance.

One run of `LEAST` words of each held-out text is looked up by its hash, as in Brown et al. 2020 (appendix C);
where it is met, the words around it are compared as well. So of a held-out text five numbers are kept. Only
texts that a sieve over the bytes of all lets through (`rlhf/data/sieve.py`) are looked at word by word.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from os.path import commonprefix  # which is of any texts

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.conversations import transcript
from rlhf.data.sieve import WORDS, Sieve
from rlhf.data.table import Table
from rlhf.data.word_hashes import word_hashes, words_of

LEAST = WORDS
_TRIED = 5  # runs of each held-out text, of which the rarest is looked up, since many texts share a beginning
_TOGETHER = 4096  # texts looked at together
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Runs:
    """Held-out texts as runs of words within other texts.

    Args:
        groups: held-out texts of one or several kinds; those of fewer than `LEAST` words are left out.

    Attributes:
        runs: the words that are looked up, for a sieve.
    """

    def __init__(self, *groups: Iterable[str]) -> None:
        self._groups = len(groups)
        self._looked_up: dict[int, set[tuple[int, int, int, int]]] = {}  # offset, words, hash of all, group
        self.runs: list[list[bytes]] = []
        every = [(group, text) for group, texts in enumerate(groups) for text in texts]
        tried, sizes, wholes, places = self._tried([text for _, text in every])
        _, which, counts = np.unique(tried, return_inverse=True, return_counts=True)
        rarest = counts[which].reshape(-1, _TRIED).argmin(axis=1)
        offsets = _offsets(sizes)[np.arange(len(sizes)), rarest].tolist()
        runs = tried.reshape(-1, _TRIED)[np.arange(len(sizes)), rarest].tolist()
        for place, run, offset, size, whole in zip(
            places, runs, offsets, sizes.tolist(), wholes, strict=True
        ):
            group, text = every[place]
            self._looked_up.setdefault(run, set()).add((offset, size, whole, group))
            self.runs.append(words_of(text)[offset : offset + LEAST])
        self._sieve = Sieve(self.runs)

    @staticmethod
    def _tried(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
        """Of each text of `LEAST` words or more the hashes of `_TRIED` runs, [texts * _TRIED], the number of
        its words, the hash of all of them, and its place."""
        runs, sizes = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        wholes: list[int] = []
        places: list[int] = []
        for start in range(0, len(texts), _TOGETHER):
            hashes, begins = word_hashes(texts[start : start + _TOGETHER])
            counts = np.diff(begins).astype(np.int64)
            long = np.flatnonzero(counts >= LEAST)
            runs.append(_hashes(hashes)[begins[long, None] + _offsets(counts[long])].ravel())
            sizes.append(counts[long])
            wholes += [hash(hashes[begins[at] : begins[at + 1]].tobytes()) for at in long.tolist()]
            places += (long + start).tolist()
        return np.concatenate(runs), np.concatenate(sizes), wholes, places

    def within(self, texts: Sequence[str]) -> np.ndarray:
        """Whether each text holds one of them."""
        return np.logical_or.reduce(self.which_within(texts), axis=1)

    def which_within(self, texts: Sequence[str] | pa.Array) -> np.ndarray:
        """Whether each text holds one of each group, [texts, groups]; a null of an Arrow array holds none."""
        column = pc.fill_null(texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string()), "")
        held = np.zeros((len(column), self._groups), bool)
        seen: dict[str, int] = {}  # different texts that were looked at, by the place of the first
        for start in range(0, len(column), _TOGETHER):
            some = column.slice(start, _TOGETHER)
            through = np.flatnonzero(self._sieve.lets_through(some))
            told, places = values_of(some.take(pa.array(through))), (through + start).tolist()
            first = [seen.setdefault(text, place) for text, place in zip(told, places, strict=True)]
            new = [
                at for at, (place, before) in enumerate(zip(places, first, strict=True)) if place == before
            ]
            held[[places[at] for at in new]] = self._of_words([told[at] for at in new])
            held[places] = held[first]
        return held

    def _of_words(self, texts: Sequence[str]) -> np.ndarray:
        held = np.zeros((len(texts), self._groups), bool)
        hashes, begins = word_hashes(texts)
        for at, run in enumerate(_hashes(hashes).tolist()):
            for offset, count, whole, group in self._looked_up.get(run, ()):
                text = int(np.searchsorted(begins, at, side="right")) - 1
                start, end = at - offset, at - offset + count
                inside = begins[text] <= start and end <= begins[text + 1]
                held[text, group] |= inside and hash(hashes[start:end].tobytes()) == whole
        return held


class Openings:
    """Held-out texts as beginnings of other texts, letter for letter.

    Args:
        texts: the held-out texts, of any length.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._sorted: list[str] = []
        for text in sorted(filter(None, set(texts))):
            # One that begins with another needs no look; so in order none stands between a text and the one
            # that it begins with.
            if not (self._sorted and text.startswith(self._sorted[-1])):
                self._sorted.append(text)

    def begin(self, text: str) -> bool:
        """Whether one of them is the beginning of a text."""
        at = bisect_right(self._sorted, text)
        return at > 0 and text.startswith(self._sorted[at - 1])


class HeldOut:
    """The prompts of split `test` and their references.

    Args:
        prepared: name -> table, in normal form and with splits; prompts and demonstrations.
    """

    def __init__(self, prepared: Mapping[str, Table]) -> None:
        prompts = list(_spellings(prepared["prompts"].where("split", "test")))
        references = _references(prepared["demonstrations"].where("split", "test"))
        self._openings = Openings(prompts)
        self._runs = Runs(chain(without_frame(prompts), references))

    def given_away(self, texts: Sequence[str | None]) -> np.ndarray:
        """Whether each text gives one of them away."""
        plain = [text or "" for text in texts]
        return self._runs.within(plain) | np.fromiter(map(self._openings.begin, plain), bool, len(plain))


def without_frame(texts: Iterable[str]) -> list[str]:
    """Different texts without the words with which all of them begin and end: an instruction, or a cue such
    as "TL;DR:". A corpus that holds the posts behind the prompts need not hold those.

    A text of which fewer than `LEAST` words would be left stays whole.
    """
    different = list(dict.fromkeys(texts))
    if len(different) < 2:
        return different
    backwards = [text[::-1] for text in different]
    head, tail = commonprefix(different), commonprefix(backwards)[::-1]  # noqa: RUF071
    head = head[: max(head.rfind(space) for space in " \n\t") + 1]  # the words that it holds whole
    first = min((place for space in " \n\t" if (place := tail.find(space)) >= 0), default=len(tail))
    ends = len(tail) - first
    bare = [text[len(head) : max(len(head), len(text) - ends)] for text in different]
    return [
        short if len(words_of(short)) >= LEAST else text for short, text in zip(bare, different, strict=True)
    ]


def _spellings(prompts: Table) -> Iterator[str]:
    """The texts with which another would give a prompt away: the prompt, its transcript, and that without the
    words of the system, which other tellings of it need not have."""
    for batch in prompts.batches(["prompt", "messages"]):
        for prompt, turns in zip(*map(values_of, batch.columns), strict=True):
            if prompt:
                yield prompt
                told = [turns or [], [turn for turn in turns or [] if turn["role"] != "system"]]
                yield from (transcript(messages).strip() for messages in told if messages)


def _references(demonstrations: Table) -> Iterator[str]:
    for batch in demonstrations.batches(["completion"]):
        yield from filter(None, values_of(batch.column("completion")))


def _offsets(counts: np.ndarray) -> np.ndarray:
    """Where the tried runs begin in texts of so many words, [texts, _TRIED]."""
    return np.linspace(np.zeros(len(counts)), counts - LEAST, _TRIED, axis=-1).astype(np.int64)


def _hashes(words: np.ndarray) -> np.ndarray:
    """The hash of the `LEAST` words from each word on; of the last words, of those that are left."""
    runs = np.zeros(len(words), np.uint64)
    for i in range(min(LEAST, len(words))):
        shifted = np.zeros(len(words), np.uint64)
        shifted[: len(words) - i] = words[i:].view(np.uint64)
        runs = runs * _FACTOR + shifted
    return runs
