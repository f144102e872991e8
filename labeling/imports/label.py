"""A label as a file has it, whatever its layout, and the fields in which foreign records keep their texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhf.data.conversations import Messages, as_columns
from rlhf.data.errors import DataError

PROMPT_FIELDS = ("prompt", "instruction", "question", "context", "input", "text")


@dataclass(frozen=True)
class ImportedLabel:
    """One label of a file. `answer` is as `labeling.answers` stores it; `messages` are the turns of a
    conversation, None where the prompt is plain text."""

    kind: str
    prompt: str
    outputs: tuple[str, ...]
    answer: dict[str, Any]
    labeler: str
    group: str = "imported"
    policies: tuple[str, ...] = ()
    reference: str | None = None
    strength: int | None = None
    seconds: float | None = None
    shown_order: tuple[int, ...] | None = None
    guideline_version: str | None = None
    split: str | None = None
    note: str = ""
    messages: Messages | None = None


@dataclass(frozen=True)
class Fields:
    """Which fields of a record are the prompt and the outputs; by default their names and order decide."""

    prompt: str | None = None
    outputs: tuple[str, ...] = ()

    def texts(self, record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The `prompt`, with the `messages` of a conversation, and the outputs by field name.

        Raises:
            DataError: no field is the prompt, its messages make no sense, or an output has no text.
        """
        texts = {name: value for name, value in record.items() if isinstance(value, str)}
        chats = {name: value for name, value in record.items() if _is_chat(value)}
        names = (*chats, *(name for name in PROMPT_FIELDS if name in texts))
        prompt = self.prompt or next(iter(names), None)
        if prompt is None or prompt not in texts | chats:
            raise DataError(f"no field for the prompt among {', '.join(record)}; say --prompt-field")
        missing = [name for name in self.outputs if name not in texts]
        if missing:
            raise DataError(f"no text field {missing[0]!r} among {', '.join(record)}")
        chosen = self.outputs or tuple(name for name in texts if name != prompt)
        asked = as_columns({"prompt": record[prompt]}, ends_answered=False)
        return asked, {name: texts[name] for name in chosen}


def _is_chat(value: Any) -> bool:
    """Whether a field is a list of messages, as a chat field of Argilla is."""
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(isinstance(turn, dict) and "role" in turn for turn in turns)
