"""Answers in OpenAI's shape: whole, or in the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from typing import Any, ClassVar

from flows.serving.engine import Piece


class Answers:
    """What is known of the answers to a request.

    Args:
        model: its name.
        fingerprint: of the weights.
        choices: how many there are.
        prompt_tokens: of all prompts, each once.
    """

    kind: ClassVar[str]
    prefix: ClassVar[str]
    chunks: ClassVar[str]  # the object of a stream's chunks

    def __init__(self, model: str, fingerprint: str, choices: int, prompt_tokens: int) -> None:
        self.model, self.fingerprint, self.prompt_tokens = model, fingerprint, prompt_tokens
        self.texts = [""] * choices
        self.reasons: list[str | None] = [None] * choices
        self.tokens = 0
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())

    @property
    def complete(self) -> bool:
        """Whether all choices have ended."""
        return None not in self.reasons

    def add(self, piece: Piece) -> None:
        """Take a piece of a choice."""
        self.texts[piece.choice] += piece.text
        self.reasons[piece.choice] = piece.reason
        self.tokens += piece.tokens

    def whole(self) -> dict[str, Any]:
        """The answer of a request without `stream`."""
        choices = [self._choice(i, self.texts[i], self.reasons[i]) for i in range(len(self.texts))]
        return self._object(self.kind, choices) | {"usage": self._usage()}

    def first(self, usage: bool) -> list[dict[str, Any]]:
        """The chunks that open a stream."""
        return []

    def chunk(self, piece: Piece, usage: bool) -> dict[str, Any]:
        """The chunk of a piece."""
        return self._chunk([self._part(piece)], usage)

    def last(self) -> dict[str, Any]:
        """The chunk that closes a stream with `include_usage`."""
        return self._object(self.chunks, []) | {"usage": self._usage()}

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        raise NotImplementedError

    def _part(self, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _chunk(self, choices: list[dict[str, Any]], usage: bool) -> dict[str, Any]:
        return self._object(self.chunks, choices) | ({"usage": None} if usage else {})

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }


class ChatAnswers(Answers):
    """Of /v1/chat/completions."""

    kind, prefix, chunks = "chat.completion", "chatcmpl", "chat.completion.chunk"

    def first(self, usage: bool) -> list[dict[str, Any]]:
        """The role of each choice."""
        opening = {"role": "assistant", "content": ""}
        return [
            self._chunk([{"index": i, "delta": opening, "logprobs": None, "finish_reason": None}], usage)
            for i in range(len(self.texts))
        ]

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def _part(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {"index": piece.choice, "delta": delta, "logprobs": None, "finish_reason": piece.reason}


class TextAnswers(Answers):
    """Of /v1/completions."""

    kind, prefix, chunks = "text_completion", "cmpl", "text_completion"

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def _part(self, piece: Piece) -> dict[str, Any]:
        return self._choice(piece.choice, piece.text, piece.reason)
