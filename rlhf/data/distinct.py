"""How many different prompts there are: spellings of the same prompt are one prompt, not several.

Prompts are what an evaluation samples, so its n has to count prompts. One question in 325 spellings is one
question: `spelling` brings them together, and whatever averages by prompt does so by spelling. Texts that
differ in a few words may be one question or two, which no program can tell: `near_copies` only counts them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

# Marks that carry no meaning of their own, unless a number follows: 1.5 is not 15, and 2 - 3 is not 2 3.
# Operators such as + * / < > = stay, since 2 + 3 and 2 * 3 are different questions.
_MARKS = re.compile(r"[.,;:!?'\"`´‘’“”„«»…·•(){}\[\]_\-‐-―¿¡。、؟،؛।॥]++(?!\s*\d)")
_ACCENT, _LAST_ACCENT = "\u0300", "\u036f"  # not all of category Mn: in Hindi that holds vowels
# Characters that show nothing and are no format characters: controls, fillers, the braille blank, variation
# selectors.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000e-\u001b\u007f-\u0084\u0086-\u009f\u115f\u1160\u3164\uffa0\u2800\u17b4\u17b5"
    "\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]+"
)
_MOST_COMPARED = 2000  # prompts, because the comparison of all pairs grows with their square
_ALIKE = 0.8  # share of words in common from which two prompts are near-copies


@functools.lru_cache(maxsize=10_000)  # every statistic of an evaluation asks for the same prompts
def spelling(text: str) -> str:
    """The form that all spellings of a text share, for counting.

    Case, white space, accents, compatibility forms (Unicode NFKD), invisible characters and punctuation away
    from digits are taken off. A text that consists of these alone is left as it is. Splits go by the plainer
    `rlhf.data.splits.prompt_key`, which says why there are two.
    """
    plain = "".join(
        character
        for character in unicodedata.normalize("NFKD", _INVISIBLE.sub("", text))
        if not (_ACCENT <= character <= _LAST_ACCENT or unicodedata.category(character) == "Cf")
    ).casefold()
    return "".join(_MARKS.sub("", plain).split()) or text


def first_of_spelling(prompts: Sequence[str]) -> list[str]:
    """For each prompt the first one of the list with the same spelling: equal entries are one prompt."""
    first: dict[str, str] = {}
    return [first.setdefault(spelling(prompt), prompt) for prompt in prompts]


def near_copies(prompts: Sequence[str]) -> float:
    """Share of prompts that have four fifths of their words in common with an earlier one, 0..1.

    Only the first 2,000 prompts are compared. The share of words in common is the number of words in both
    over the number in either (Jaccard 1912).
    """
    import numpy as np
    from scipy.sparse import csr_array  # scikit-learn's CountVectorizer is slow to load

    texts = list(dict.fromkeys(first_of_spelling(prompts)))[:_MOST_COMPARED]
    if len(texts) < 2:
        return 0.0
    place: dict[str, int] = {}  # word -> its column
    rows = [{place.setdefault(word, len(place)) for word in text.lower().split()} for text in texts]
    ends = np.cumsum([0, *map(len, rows)])
    columns = np.concatenate([np.fromiter(row, np.int32, len(row)) for row in rows])
    words = csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(texts), len(place)))
    both = (words @ words.T).toarray()
    size = np.diag(both)
    either = size[:, None] + size[None, :] - both
    alike = np.tril(both >= _ALIKE * np.maximum(either, 1), -1)
    return float(alike.any(axis=1).mean())
