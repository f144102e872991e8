"""A chat template as a `Template`: conversations become token ids, and generated ids become text again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from rlhf.data.errors import DataError
from rlhf.models.control_tokens import controls_of, encode, unmarked
from rlhf.models.plain import Plain, Row, until_stop
from rlhf.models.template_source import settled
from rlhf.models.thinking import CLOSING, Thinking, around_thinking

Turns = list[dict[str, str]]

_ASKED: Turns = [{"role": "user", "content": "Does it work?"}]
_ANSWER = "It works."


@dataclass(frozen=True)
class _Around:
    """What a template writes around an answer.

    Attributes:
        front: between the prompt and the answer's text.
        end: the id that ends the turn.
        back: between the answer's text and that id.
        closes: whether the template writes that id; if not, it is EOS, put there.
    """

    front: str
    end: int
    back: str
    closes: bool


class Chat:
    """Conversations by a tokenizer's own template; rows of plain text as `Plain` reads them.

    An answer is what the template writes behind the prompt, up to the token that ends the turn. Where the
    prompt's ids are not the start of the whole (a template that opens a thinking block for generation, a line
    break that grows together with the header's), it is the ids of the answer's own text and that token.

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
        self.source, self.arguments = settled(tokenizer.get_chat_template(), arguments or {})
        self._whole: set[tuple[str, ...]] = set()  # orders of roles that the template is known to write
        self._with_bos()
        self.thinking = Thinking(tokenizer, self.source)
        self.around = self._probe()
        self.stops = tuple(dict.fromkeys([self.around.end, *self.plain.stops]))
        # What stands between thinking and answer: a channel's name, as tokens, or line breaks, as text.
        self._header = CLOSING.split(self.around.front)[-1]
        header = encode(tokenizer, [self._header])[0] if self._header else []
        self._header_ids = header if any(i in self.controls.ids for i in header) else []

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
        if row is not None and self._turns(row) is None:
            return self.plain.text(ids)
        ids = self.thinking.behind_tokens(until_stop(ids, self.stops))
        header = self._header_ids
        if header:
            starts = [i for i in range(len(ids)) if ids[i : i + len(header)] == header]
            if starts:
                ids = ids[starts[-1] + len(header) :]
            elif ids[:1] == header[:1]:
                return ""  # another channel, and no answer yet
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        thought = self.thinking.behind_tags(text)
        if self._header and not header and thought.startswith(self._header):
            text = thought[len(self._header) :]
        else:
            text = thought if thought == text else thought.lstrip()
        return text.removesuffix(self.around.back) if self.around.back else text

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Ids of many rows' conversations.

        Raises:
            DataError: a row that the template refuses, or whose turns it drops, moves or changes.
        """
        chats = [self._turns(row) for row in rows]
        rendered = iter(encode(self.tokenizer, [self._render(chat, True)[0] for chat in chats if chat]))
        plain = iter(self.plain.prompts([r for r, chat in zip(rows, chats, strict=True) if not chat]))
        return [next(rendered if chat else plain) for chat in chats]

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
        prompts = self.prompts(rows)
        chats = [self._turns(row) for row in rows]
        told = [
            self._render([*chat, {"role": "assistant", "content": text}], False)
            for chat, text in zip(chats, texts, strict=True)
            if chat
        ]
        wholes = iter(
            encode(self.tokenizer, [text if self.around.closes else text[:end] for text, end in told])
        )
        answers: list[list[int] | None] = []
        for chat, prompt in zip(chats, prompts, strict=True):
            answers.append(self._behind(prompt, next(wholes)) if chat else None)
        apart = [text for text, answer in zip(texts, answers, strict=True) if answer is None]
        own = iter(self.plain.continuations(apart))
        ends = [self.stops[0] if chat else self.plain.stops[0] for chat in chats]
        return prompts, [a or [*next(own), end] for a, end in zip(answers, ends, strict=True)]

    def whole(self, row: Row, text: str) -> list[int]:
        """Ids of a row's conversation with its answer, as the template writes it, to its very end.

        Raises:
            DataError: the row is plain text, or see `prompts`.
        """
        turns = self._turns(row)
        if turns is None:
            raise DataError("a row of plain text is no conversation")
        return encode(
            self.tokenizer, [self._render([*turns, {"role": "assistant", "content": text}], False)[0]]
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
                f"{_named(turns)} has {len(ids)} tokens, and the context has room for {max(room, 0)} beside "
                "the answer; remove it or take a longer context"
            )
        return ids

    def _behind(self, prompt: list[int], whole: list[int]) -> list[int] | None:
        """The answer in the ids of the whole; None where the prompt's ids are not its start."""
        end = self.stops[0]
        rest = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
        if not self.around.closes:
            return [*rest, end] if rest else None
        return rest[: rest.index(end) + 1] if end in rest else None

    def _turns(self, row: Row) -> Turns | None:
        """The conversation of a row; None for a plain one."""
        messages = row.get("messages")
        if messages is None:
            return [{"role": "user", "content": row["prompt"]}] if self.wrap else None
        turns = []
        for number, turn in enumerate(messages, 1):
            if not isinstance(turn.get("content"), str):
                raise DataError(f"turn {number} of a conversation has no text as its content; give it one")
            more = [name for name, value in turn.items() if name not in ("role", "content") and value]
            if more:
                raise DataError(
                    f"turn {number} of a conversation has {', '.join(more)}; only role and content are read, "
                    "so write what matters into the content"
                )
            turns.append({"role": str(turn.get("role")), "content": turn["content"]})
        if not turns or turns[-1]["role"] == "assistant":
            raise DataError("a conversation must end with a turn that the assistant answers")
        return turns

    def _render(self, turns: Turns, ready: bool) -> tuple[str, int]:
        """A conversation as the template writes it, with marks, and where its last text ends.

        Raises:
            DataError: the template refuses it, or a turn does not stand there whole and in order.
        """
        roles = (*(turn["role"] for turn in turns), str(ready))
        if roles not in self._whole:
            # Texts that occur nowhere else show which turns are written at all, and where.
            probes = [{**turn, "content": f"Probe{i:04d}."} for i, turn in enumerate(turns)]
            self._check(turns, probes, self._called(probes, ready, turns), changed=False)
            self._whole.add(roles)
        marked = [{**turn, "content": self._marked(turn)} for turn in turns]
        written = self._called(marked, ready)
        if marked == turns:
            return written, self._check(turns, turns, written)
        self._check(turns, turns, unmarked(written))
        last = marked[-1]["content"].strip()
        return written, written.rfind(last) + len(last) if last in written else len(written)

    def _marked(self, turn: dict[str, str]) -> str:
        """A turn's text with marks; the tags around an assistant's thinking are what they spell."""
        text = turn["content"]
        pieces = around_thinking(text) if turn["role"] == "assistant" else [text]
        return "".join(text if i % 2 else self.controls.mark(text) for i, text in enumerate(pieces))

    def _called(self, turns: Turns, ready: bool, named: Turns | None = None) -> str:
        values = {**self.tokenizer.special_tokens_map, **self.arguments}
        try:
            rendered, _ = render_jinja_template(
                conversations=[turns], chat_template=self.source, add_generation_prompt=ready, **values
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise DataError(
                f"the chat template refuses {_named(named or turns)}: {' '.join(str(error).split())}"
            ) from None
        return rendered[0]

    def _check(self, turns: Turns, shown: Turns, written: str, changed: bool = True) -> int:
        """Where the last text ends in what the template wrote.

        Args:
            turns: as the row has them, for the message.
            shown: as the template got them.
            changed: whether a text that is missing has been changed, and not left out.
        """
        at = 0
        for number, turn in enumerate(shown, 1):
            text = turn["content"].strip()
            missing = False
            for part in map(str.strip, around_thinking(text)):
                start = written.find(part, at)
                missing = missing or start < 0
                at = max(at, start + len(part))
            if missing:
                role = turn["role"]
                if changed:
                    tag = CLOSING.search(text)
                    did = f"splits the text of turn {number} ({role}) at {tag[0]!r}" if tag else ""
                    did = did or f"changes the text of turn {number} ({role})"
                    mend = "take the thinking and its tags out of it" if tag else "take another template"
                else:
                    did = f"{'moves' if text in written else 'drops'} turn {number} ({role})"
                    mend = f"put its text into a user turn, or take a template that writes {role} turns there"
                raise DataError(f"the chat template {did} of {_named(turns)}; {mend}")
        return at

    def _with_bos(self) -> None:
        """Let the template write BOS where the tokenizer does and the template does not."""
        start = self.plain.start
        if not start or self.tokenizer.bos_token is None or start[-1] != self.tokenizer.bos_token_id:
            return
        if encode(self.tokenizer, [self._called(_ASKED, True)])[0][: len(start)] != start:
            self.source = "{{- bos_token -}}" + self.source

    def _probe(self) -> _Around:
        """What the template writes around an answer, seen in one of which the text is known."""
        asked = self._called(_ASKED, True)
        told, end = self._render([*_ASKED, {"role": "assistant", "content": _ANSWER}], False)
        front = told[len(asked) : end - len(_ANSWER)] if told.startswith(asked) else ""
        behind = told[end:]
        token = self.controls.pattern.search(behind)
        if token is None:
            return _Around(front, self.tokenizer.eos_token_id, "", closes=False)
        ids = encode(self.tokenizer, [token[0]])[0]
        closing = next(i for i in ids if i in self.controls.ids)
        return _Around(front, closing, behind[: token.start()], closes=True)


def _named(turns: Turns) -> str:
    return f"the conversation that begins {turns[0]['content'][:60]!r}"
