"""ChatML, the chat template of models that are trained here: its markers, and the template beside it."""

from __future__ import annotations

from pathlib import Path

TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
CHATML = Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8").strip()
