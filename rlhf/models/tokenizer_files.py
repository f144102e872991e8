"""A tokenizer from its folder, with the ids of the folder's own file.

transformers 5 rebuilds some tokenizers from the name of their class. Splits and blanks that only the file
knows are then lost, and the ids differ from those that the model was trained on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf.data.errors import DataError
from rlhf.models.plain import ids_in_front

# What tokenizers treat each in their own way: contractions, digits, blanks, line breaks, composed letters,
# scripts without blanks, signs, code.
PROBE = (
    "Hello, world! It's 1234567890 o'clock; they'll've gone.",
    " a leading blank",
    "  two blanks, a\ttab   and three at the end   ",
    "\n\nlines\n \n\tof\r\ncode: def f(x):\n    return x**2  # 0x1F\n",
    "caf\u00e9 cafe\u0301 \ufb01 \u2126 \uff21 \u00bd",
    "日本語のテキスト 中文 한국어 العربية हिन्दी Ελληνικά",
    "🙂👩‍👩‍👧 ≥ — “quoted” …",
    "UPPER lower CamelCase snake_case $1,234.56 3.14e-10 I'M YOU'RE",
    'a-b_c/d\\e {"k": [1, 2]} <b>x</b> a.b.c()',
)


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer of a folder, with the ids of the folder's tokenizer.json; it pads on the left.

    It begins texts with BOS if its tokenizer_config.json says so. No code in the folder is run.

    Raises:
        DataError: no tokenizer that can be read, or transformers reads it as other ids than its own file.
    """
    folder = Path(folder)
    whole = (folder / "tokenizer.json").exists()
    tokenizer = _as_its_file(folder) if whole else _load(AutoTokenizer, folder)
    if not tokenizer.is_fast:
        raise DataError(
            f"{folder}: only a slow tokenizer; save it once with transformers as a fast one (tokenizer.json)"
        )
    begins = _config(folder).get("add_bos_token") is True
    if begins and tokenizer.bos_token is not None and not ids_in_front(tokenizer):
        tokenizer.add_bos_token = True
    return tokenizer


def check_tokenizer(folder: Path | str, tokenizer: Any) -> None:
    """Compare a tokenizer's ids with those of its folder's tokenizer.json, on `PROBE` and the added tokens.

    Raises:
        DataError: they differ.
    """
    file = Path(folder) / "tokenizer.json"
    own = Tokenizer.from_file(str(file))
    for text in PROBE:
        if (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            != own.encode(text, add_special_tokens=False).ids
        ):
            raise DataError(
                f"{file}: transformers reads {text[:40]!r} as other ids than this file; "
                'set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json'
            )
    for i, token in own.get_added_tokens_decoder().items():
        if tokenizer.convert_tokens_to_ids(token.content) != i:
            raise DataError(
                f"{file}: {token.content!r} is token {i} in this file, and another for transformers"
            )


_READERS: dict[tuple[Path, int, int], Any] = {}  # file and its state -> class; compared once a process


def _as_its_file(folder: Path) -> Any:
    """A tokenizer that reads as its tokenizer.json does: by the class of its name, or by the file alone."""
    file = (folder / "tokenizer.json").resolve()
    state = (file, file.stat().st_mtime_ns, file.stat().st_size)
    if state in _READERS:
        return _load(_READERS[state], folder)
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        if kind is AutoTokenizer and "auto_map" in _config(folder):
            continue
        tokenizer = _load(kind, folder)
        try:
            check_tokenizer(folder, tokenizer)
        except DataError:
            if kind is PreTrainedTokenizerFast:
                raise
        else:
            break
    _READERS[state] = kind
    return tokenizer


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _load(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{folder}: transformers cannot read the tokenizer: {said}") from None
