"""A chat template as a `Template`: conversations become token ids, and generated ids become text again."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from transformers.utils.chat_template_utils import render_jinja_template

from rlhf.data.errors import DataError
from rlhf.models.plain import Plain, Row, content_ids, until_stop

TODAY = "2024-07-26"  # the date of every conversation whose template asks for today's
_PROBE = ("Does it work?", "It works.")


class _Generation(Extension):
    """The tag with which a template marks what an assistant wrote; here its body is read as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def pinned(source: str, today: datetime.date) -> str:
    """A template whose every date is `today`: the ids of a conversation do not change from day to day."""
    calls = Environment(extensions=[_Generation, loopcontrols]).parse(source).find_all(nodes.Call)
    formats = [
        argument.value
        for call in calls
        if isinstance(call.node, nodes.Name) and call.node.name == "strftime_now"
        for argument in call.args
        if isinstance(argument, nodes.Const)
    ]
    if not formats:
        return source
    dates = {text: today.strftime(text) for text in formats}
    return f"{{%- macro strftime_now(form) -%}}{{{{ {dates!r}[form] }}}}{{%- endmacro -%}}\n" + source


class Chat:
    """Conversations by a tokenizer's own template; rows of plain text as `Plain` reads them.

    Args:
        tokenizer: with a `chat_template`.
        arguments: what the template is called with besides the messages; `today` is the date (ISO) that a
            template gets which asks for the current one.
        wrap: read a plain prompt as one user turn.

    Attributes:
        stops: the id that ends a turn, then EOS.

    Raises:
        DataError: a row or an answer that the template refuses, drops or changes; see `prompts`.
    """

    def __init__(
        self, tokenizer: Any, arguments: Mapping[str, Any] | None = None, wrap: bool = False
    ) -> None:
        self.tokenizer, self.wrap = tokenizer, wrap
        self.arguments = dict(arguments or {})
        today = datetime.date.fromisoformat(str(self.arguments.pop("today", TODAY)))
        self.source = pinned(tokenizer.get_chat_template(), today)
        self.plain = Plain(tokenizer)
        end, self.prefix = self._probe()
        self.stops = tuple(dict.fromkeys([end, *self.plain.stops]))

    def prompt(self, row: Row) -> list[int]:
        """Ids of a row's conversation, ready for an answer."""
        return self.prompts([row])[0]

    def answer(self, row: Row, text: str) -> list[int]:
        """Ids of an answer to `row`, with the token that ends the turn and nothing behind it."""
        return self.answers([row], [text])[0]

    def text(self, ids: Sequence[int]) -> str:
        """The answer in generated ids, without what the template adds."""
        ids = until_stop(ids, self.stops)
        if self.prefix and ids[: len(self.prefix)] == self.prefix:
            ids = ids[len(self.prefix) :]
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Ids of many rows' conversations."""
        chats = [self._messages(row) for row in rows]
        rendered = iter(self._ids([c for c in chats if c is not None], True))
        plain = iter(self.plain.prompts([r for r, c in zip(rows, chats, strict=True) if c is None]))
        return [next(plain if chat is None else rendered) for chat in chats]

    def answers(self, rows: Sequence[Row], texts: Sequence[str]) -> list[list[int]]:
        """Ids of many rows' answers."""
        chats = [self._messages(row) for row in rows]
        starts = self.prompts(rows)
        told = [
            [*chat, {"role": "assistant", "content": text}]
            for chat, text in zip(chats, texts, strict=True)
            if chat is not None
        ]
        wholes = iter(self._ids(told, False))
        ends = []
        for row, chat, text, start in zip(rows, chats, texts, starts, strict=True):
            if chat is None:
                ends.append(self.plain.answer(row, text))
                continue
            whole = next(wholes)
            if whole[: len(start)] == start and self.stops[0] in whole[len(start) :]:
                rest = whole[len(start) :]
                ends.append(rest[: rest.index(self.stops[0]) + 1])
            else:
                ends.append([*content_ids(self.tokenizer, [text])[0], self.stops[0]])
        return ends

    def shortened(self, row: Row, ids: list[int], room: int) -> list[int]:
        """A prompt's ids if they fit into `room`.

        Raises:
            DataError: they do not; a conversation is never cut, for a cut takes the header of a turn.
        """
        messages = self._messages(row)
        if messages is None:
            return self.plain.shortened(row, ids, room)
        if len(ids) > room:
            first = messages[0]["content"][:60]
            raise DataError(
                f"the conversation that begins {first!r} has {len(ids)} tokens, and {max(room, 0)} are left "
                "beside its answer; remove it or take a model with a longer context"
            )
        return ids

    def _messages(self, row: Row) -> list[dict[str, str]] | None:
        messages = row.get("messages")
        if messages is not None:
            return list(messages)
        return [{"role": "user", "content": row["prompt"]}] if self.wrap else None

    def _ids(self, chats: Sequence[list[dict[str, str]]], ready: bool) -> list[list[int]]:
        if not chats:
            return []
        try:
            return self.tokenizer.apply_chat_template(
                list(chats),
                chat_template=self.source,
                add_generation_prompt=ready,
                return_dict=False,
                sanitize_control_tokens=True,
                **self.arguments,
            )
        except (ValueError, TemplateError) as error:
            raise DataError(f"the chat messages cannot be read by this tokenizer: {error}") from None

    def _render(self, chat: list[dict[str, str]], ready: bool) -> str:
        rendered, _ = render_jinja_template(
            conversations=[chat],
            chat_template=self.source,
            add_generation_prompt=ready,
            **{**self.tokenizer.special_tokens_map, **self.arguments},
        )
        return rendered[0]

    def _probe(self) -> tuple[int, list[int]]:
        """The id that ends a turn, and the ids that the template writes between prompt and answer."""
        asked = [{"role": "user", "content": _PROBE[0]}]
        told = [*asked, {"role": "assistant", "content": _PROBE[1]}]
        start = self._ids([asked], True)[0]
        text = self._render(told, False)
        behind = text[text.rindex(_PROBE[1]) + len(_PROBE[1]) :]
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        after = self.tokenizer(behind, add_special_tokens=False)["input_ids"]
        end = next((i for i in after if i in special), self.tokenizer.eos_token_id)
        whole = self._ids([told], False)[0]
        if whole[: len(start)] != start:
            return end, []
        ids, own = whole[len(start) :], content_ids(self.tokenizer, [_PROBE[1]])[0]
        at = next((i for i in range(len(ids)) if ids[i : i + len(own)] == own), 0)
        return end, ids[:at]
