"""A folder with a reward model that a user brings: what can be said of it without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def why_no_reward(folder: Path) -> str | None:
    """Why the model in a folder cannot score, in one line; None where nothing shows that it cannot.

    A reward model has one label, whose logit is the score, and its tokenizer has an end token, because a
    score is read there. A pad token it need not have: one that ends nothing is made when it is loaded.

    Args:
        folder: as `save_pretrained` writes it.
    """
    config = _read(folder / "config.json")
    if config is None:
        return f"{folder} holds no model; put one there"
    made = [
        name for name in config.get("architectures") or () if not name.endswith("ForSequenceClassification")
    ]
    if made:
        return (
            f"{folder}: {made[0]} gives no score; a reward model is a sequence classification with one label"
        )
    labels = len(config.get("id2label") or {0: "", 1: ""})  # two are the default, which is not written
    if labels != 1:
        return (
            f"{folder}: the model has {labels} labels, and a reward model has one, whose logit is the score; "
            "train it with num_labels=1, or keep the row of its head that is the score"
        )
    tokens = [_read(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    if not any(tokens):
        return f"{folder} holds no tokenizer; save the one that the model was trained with beside it"
    if not any(entry.get("eos_token") for entry in tokens if entry):
        return (
            f"{folder}: the tokenizer has no EOS token, where a score would be read; set eos_token in its "
            "tokenizer_config.json"
        )
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
