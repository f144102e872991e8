"""A chat template as a `Template`: conversations become token ids, and generated ids become text again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from rlhf.data.errors import DataError
from rlhf.models.control_tokens import controls_of, encode
from rlhf.models.plain import Plain, Row, until_stop
from rlhf.models.template_source import settled
from rlhf.models.thinking import CLOSING, Thinking, around_thinking
from rlhf.models.turns import Turns, changed, check_all_written, end_of_text, named, turns_of

_ASKED: Turns = [{"role": "user", "content": "Does it work?"}]
_ANSWER = "It works."


@dataclass(frozen=True)
class _Around:
    """What a template writes around an answer.

    Attributes:
        front: between the prompt and the answer's text.
        end: the id that ends the turn.
        back: between the answer's text and that id.
        closes: whether the template writes that id; if not, it is EOS, put behind the answer's text.
    """

    front: str
    end: int
    back: str
    closes: bool


class Chat:
    """Conversations by a tokenizer's own template; rows of plain text as `Plain` reads them.

    An answer is what the template writes behind the prompt, up to the token that ends the turn. Where the
    prompt is not the start of the whole (a template that opens a thinking block for generation), it is the
    answer's own text and that token. Where it is as a text and not as ids (a line break that grows together
    with the header's), what stands behind it is read by itself.

    Args:
        tokenizer: with a `chat_template`.
        arguments: what the template is called with besides the messages; `today` is the date (ISO) for a
            template that asks for the current one.
        wrap: read a plain prompt as one user turn.

    Attributes:
        source: the template as it is used: its date stands still, and it writes BOS if the tokenizer does.
        stops: the id that ends a turn, then EOS.

    Raises:
        DataError: the template cannot be used, or never reads an argument.
    """

    def __init__(
        self, tokenizer: Any, arguments: Mapping[str, Any] | None = None, wrap: bool = False
    ) -> None:
        self.tokenizer, self.wrap, self.plain = tokenizer, wrap, Plain(tokenizer)
        self.controls = controls_of(tokenizer)
        self._in_a_text = True
        self.source, self.arguments = settled(tokenizer.get_chat_template(), arguments or {})
        self._all_written: set[tuple[str, ...]] = set()  # orders of roles of which no turn is lost or moved
        self._write_bos()
        self.thinking = Thinking(tokenizer, self.source)
        self.around = self._probe()
        self.stops = tuple(dict.fromkeys([self.around.end, *self.plain.stops]))
        # What stands between thinking and answer: a channel's name, as tokens, or line breaks, as text.
        self._header = CLOSING.split(self.around.front)[-1]
        header = encode(tokenizer, [self._header])[0] if self._header else []
        self._header_ids = header if any(i in self.controls.ids for i in header) else []
        # A tokenizer that begins texts with a blank may do so behind each control token, or may not.
        self._in_a_text = self.text(self.answer({"messages": _ASKED}, _ANSWER)) == _ANSWER

    def prompt(self, row: Row) -> list[int]:
        """Ids of a row's conversation, ready for an answer.

        Raises:
            DataError: see `prompts`.
        """
        return self.prompts([row])[0]

    def answer(self, row: Row, text: str) -> list[int]:
        """Ids of an answer to `row`, with the token that ends the turn and nothing behind it.

        Raises:
            DataError: see `prompts`.
        """
        return self.answers([row], [text])[0]

    def text(self, ids: Sequence[int], row: Row | None = None) -> str:
        """The answer in generated ids: no special tokens, no thinking, nothing that the template adds.

        Args:
            row: whose answer it is; that to a row of plain text is read as `Plain` reads it.
        """
        if row is not None and row.get("messages") is None and not self.wrap:
            return self.plain.text(ids)
        said = until_stop(ids, self.stops)
        ids = self.thinking.behind_tokens(said)
        thought = len(ids) < len(said)
        header = self._header_ids
        if header:
            starts = [i for i in range(len(ids)) if ids[i : i + len(header)] == header]
            if starts:
                ids = ids[starts[-1] + len(header) :]
            elif ids[:1] == header[:1]:
                return ""  # another channel, and no answer yet
        text = self.plain.decode(ids) if self._in_a_text else self.plain.decode_alone(ids)
        answer = self.thinking.behind_tags(text)
        thought = thought or answer != text
        if self._header and not header and answer.startswith(self._header):
            text = answer[len(self._header) :]
        else:
            text = answer.lstrip() if thought else answer
        return text.removesuffix(self.around.back) if self.around.back else text

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Ids of many rows' conversations.

        Raises:
            DataError: a row that the template refuses, or whose turns it drops, moves or changes.
        """
        chats = [self._turns(row) for row in rows]
        asked = iter(encode(self.tokenizer, [self._asked(chat) for chat in chats if chat]))
        plain = iter(self.plain.prompts([row for row, chat in zip(rows, chats, strict=True) if not chat]))
        return [next(asked if chat else plain) for chat in chats]

    def answers(self, rows: Sequence[Row], texts: Sequence[str]) -> list[list[int]]:
        """Ids of many rows' answers.

        Raises:
            DataError: see `prompts`.
        """
        return self.pairs(rows, texts)[1]

    def pairs(self, rows: Sequence[Row], texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of many rows' prompts, and of their answers.

        Raises:
            DataError: see `prompts`.
        """
        mine = [i for i, row in enumerate(rows) if self.wrap or row.get("messages") is not None]
        others = sorted(set(range(len(rows))).difference(mine))
        plain = self.plain.pairs([rows[i] for i in others], [texts[i] for i in others])
        prompts, answers = dict(zip(others, plain[0], strict=True)), dict(zip(others, plain[1], strict=True))

        chats = {i: self._turns(rows[i]) or [] for i in mine}
        asked = {i: self._asked(chats[i]) for i in mine}
        told = {i: self._told(chats[i], texts[i], asked[i]) for i in mine}
        prompts |= zip(mine, encode(self.tokenizer, list(asked.values())), strict=True)
        # What stands behind a control token is read by itself: the whole is read from the prompt's last on.
        cuts = {i: self._last_control(asked[i], told[i]) for i in mine}
        wholes = encode(self.tokenizer, [told[i][cuts[i] :] for i in mine])
        for i, whole in zip(mine, wholes, strict=True):
            tail = self._from_last_control(prompts[i]) if cuts[i] else prompts[i]
            answers[i] = self._ended(whole[len(tail) :]) if whole[: len(tail)] == tail else []
        # Where the prompt's ids do not begin the whole: what stands behind it as text, or the answer itself.
        apart = [i for i in mine if not answers[i]]
        behind = {i: told[i][len(asked[i]) :] for i in apart if told[i].startswith(asked[i])}
        for i, ids in zip(behind, self.plain.continued(list(behind.values())), strict=True):
            answers[i] = self._ended(ids)
        apart = [i for i in apart if not answers[i]]
        for i, ids in zip(apart, self.plain.continuations([texts[i] for i in apart]), strict=True):
            answers[i] = [*ids, self.stops[0]]
        return [prompts[i] for i in range(len(rows))], [answers[i] for i in range(len(rows))]

    def whole(self, row: Row, text: str) -> list[int]:
        """Ids of a row's conversation with its answer, as the template writes it, to its very end.

        Raises:
            DataError: the row is plain text, or see `prompts`.
        """
        turns = self._turns(row)
        if turns is None:
            raise DataError("a row of plain text is no conversation")
        return encode(
            self.tokenizer, [self._written([*turns, {"role": "assistant", "content": text}], False)]
        )[0]

    def shortened(self, row: Row, ids: list[int], room: int) -> list[int]:
        """A prompt's ids if they fit into `room`.

        Raises:
            DataError: they do not; a conversation is never cut, for a cut takes the header of a turn.
        """
        turns = self._turns(row)
        if turns is None:
            return self.plain.shortened(row, ids, room)
        if len(ids) > room:
            raise DataError(
                f"{named(turns)} has {len(ids)} tokens, and the context has room for {max(room, 0)} beside "
                "the answer; remove it or take a longer context"
            )
        return ids

    def _ended(self, ids: list[int]) -> list[int]:
        """The ids of an answer up to the first token that ends the turn; none if there is no such token."""
        end = self.stops[0]
        if not self.around.closes:
            return [*ids, end] if ids else []
        return ids[: ids.index(end) + 1] if end in ids else []

    def _last_control(self, asked: str, told: str) -> int:
        """Where the last control token of a prompt begins; 0 if the prompt does not begin the whole."""
        tokens = self.controls.unmarked(asked)
        return tokens[-1].start() if tokens and told.startswith(asked) else 0

    def _from_last_control(self, ids: list[int]) -> list[int]:
        """A prompt's ids from its last control token on."""
        back = next((i for i, token in enumerate(reversed(ids), 1) if token in self.controls.ids), len(ids))
        return ids[-back:]

    def _turns(self, row: Row) -> Turns | None:
        """The conversation of a row; None for a plain one."""
        if row.get("messages") is not None:
            return turns_of(row["messages"])
        return [{"role": "user", "content": row["prompt"]}] if self.wrap else None

    def _asked(self, turns: Turns) -> str:
        """A conversation as the template writes it for an answer, in which every turn stands."""
        roles = tuple(turn["role"] for turn in turns)
        if roles not in self._all_written:
            probes = [{**turn, "content": f"Probe{i:04d}."} for i, turn in enumerate(turns)]
            check_all_written(turns, probes, self._called(probes, True, turns))
            self._all_written.add(roles)
        written = self._written(turns, True)
        at: int | None = 0
        for number, turn in enumerate(self._marked(turns)):
            at = end_of_text(turn, written, at or 0)
            if at is None:
                raise changed(turns, number)
        return written

    def _told(self, turns: Turns, answer: str, asked: str) -> str:
        """A conversation with its answer; if the template ends no turn, up to the answer's last letter."""
        told = [*turns, {"role": "assistant", "content": answer}]
        written = self._written(told, False)
        at = len(asked) if written.startswith(asked) else 0
        end = end_of_text(self._marked(told)[-1], written, at)
        if end is None:
            raise changed(told, len(turns))
        return written if self.around.closes else written[:end]

    def _marked(self, turns: Turns) -> Turns:
        """Turns with marks in their texts; the tags around an assistant's thinking are what they spell."""
        marked = []
        for turn in turns:
            text = turn["content"]
            pieces = around_thinking(text) if turn["role"] == "assistant" else [text]
            text = "".join(text if i % 2 else self.controls.mark(text) for i, text in enumerate(pieces))
            marked.append({**turn, "content": text})
        return marked

    def _written(self, turns: Turns, ready: bool) -> str:
        return self._called(self._marked(turns), ready, turns)

    def _called(self, turns: Turns, ready: bool, shown: Turns) -> str:
        """What the template writes of `turns`; messages show the first words of `shown`."""
        values = {**self.tokenizer.special_tokens_map, **self.arguments}
        try:
            rendered, _ = render_jinja_template(
                conversations=[turns], chat_template=self.source, add_generation_prompt=ready, **values
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            said = " ".join(str(error).split())
            raise DataError(f"the chat template refuses {named(shown)}: {said}") from None
        return rendered[0]

    def _write_bos(self) -> None:
        """Let the template write what the tokenizer writes in front of a text, if it does not."""
        start = self.plain.start
        if start and encode(self.tokenizer, [self._written(_ASKED, True)])[0][: len(start)] != start:
            tokens = "".join(self.tokenizer.convert_ids_to_tokens(start))
            self.source = f"{{{{- {json.dumps(tokens, ensure_ascii=False)} -}}}}" + self.source

    def _probe(self) -> _Around:
        """What the template writes around an answer, seen in one of which the text is known."""
        asked = self._asked(_ASKED)
        told = self._written([*_ASKED, {"role": "assistant", "content": _ANSWER}], False)
        at = told.rfind(_ANSWER)
        if at < 0:
            raise changed([*_ASKED, {"role": "assistant", "content": _ANSWER}], 1)
        front, behind = told[len(asked) : at] if told.startswith(asked) else "", told[at + len(_ANSWER) :]
        # Of tokens that stand side by side, EOS ends the turn (Cohere ends the response first), or the first.
        side_by_side: list[Any] = []
        for token in self.controls.pattern.finditer(behind):
            if side_by_side and side_by_side[-1].end() != token.start():
                break
            side_by_side.append(token)
        if not side_by_side:
            return _Around(front, self.tokenizer.eos_token_id, "", closes=False)
        eos = [token for token in side_by_side if token[0] == self.tokenizer.eos_token]
        token = (eos or side_by_side)[0]
        ids = encode(self.tokenizer, [token[0]])[0]
        end = next(i for i in ids if i in self.controls.ids)
        return _Around(front, end, behind[: token.start()], closes=True)
