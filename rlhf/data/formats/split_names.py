"""The names that files, columns and lists give to splits, and what the contracts call them."""

from __future__ import annotations

import re

_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "development": "validation",
    "judge": "judge",
}
KNOWN = ", ".join(_SPLITS)


def split_named(name: str) -> str | None:
    """The split that a name says, such as `train_sft`, `test-prefs` or `valid1`; None where it says none, or
    two of them.

        >>> split_named("train_prefs"), split_named("validation"), split_named("trainer")
        ('train', 'validation', None)
    """
    said = {_SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLITS}
    return said.pop() if len(said) == 1 else None
