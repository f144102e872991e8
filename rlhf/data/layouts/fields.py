"""The fields of a record of a labeling tool: which is the prompt, and which are the outputs.

The names decide, or the user does. `response-1` and `response-2` are a family, whose numbers say which is
the first; two other texts beside a prompt are two outputs, but nothing says which of them is "A". Where that
leaves a choice, the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.conversations import as_columns
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes, Options
from rlhf.data.layouts.turns import role_of, turns_of

PROMPTS = ("prompt", "instruction", "question", "context", "input", "query", "text")
SYSTEMS = ("system", "systemprompt", "systemmessage")
_ABOUT = ("model", "policy", "system", "generator", "source", "author", "comment", "note", "reason", "score")
_SUFFIX = re.compile(r"(.*?)[\s_.\-]*(\d+|(?<![A-Za-z])[A-Za-z]|(?<=[a-z])[A-Z])")


@dataclass(frozen=True)
class Shown:
    """What an annotator was shown.

    Attributes:
        asked: `prompt`, and `messages` where it is a conversation.
        names: of the outputs.
        outputs: their texts.
        ordered: whether something says which output is the first: a family of names, or the user.
        sure: whether these fields are the outputs; otherwise only an answer that names them all can be read.
    """

    asked: Mapping[str, Any]
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    ordered: bool
    sure: bool = True

    def only(self, names: Sequence[str], texts: Mapping[str, Any]) -> Shown:
        """The same, with these fields as the outputs, in this order.

        Raises:
            DataError: one of them has no text.
        """
        return Shown(self.asked, tuple(names), tuple(_text(texts, name) for name in names), ordered=True)


def plain(name: str) -> str:
    """A name without what people write in different ways: `Response 1` and `response-1` are `response1`."""
    return re.sub(r"[\W_]+", "", name).casefold()


def stem_and_suffix(name: str) -> tuple[str, str] | None:
    """`("response", "1")` of `Response-1`, `("answer", "b")` of `answerB`; None for a name without one."""
    match = _SUFFIX.fullmatch(name)
    return (plain(match[1]), match[2].casefold()) if match else None


def shown(fields: Mapping[str, Any], options: Options, notes: Notes, where: str) -> Shown:
    """What a record showed.

    Args:
        fields: name -> text or messages; anything else is no field that people read.
        options: `prompt` (a name, or a text with `{name}` in it) and `outputs` win over the names.
        notes: gets the fields that are neither.
        where: the record.

    Raises:
        DataError: nothing, or more than one field, can be the prompt; or an output has no text.
    """
    texts = {name: value for name, value in fields.items() if isinstance(value, str) and value.strip()}
    chats = {name: value for name, value in fields.items() if is_chat(value)}
    asked, used = _asked(fields, texts, chats, options)
    if isinstance(asked["prompt"], list):
        asked["prompt"] = turns_of(asked["prompt"], where, notes)
    asked = as_columns(asked, ends_answered=False)
    if options.outputs:
        names = tuple(options.outputs)
        return Shown(asked, names, tuple(_text(fields, name) for name in names), ordered=True)
    texts |= {name: value for name, value in fields.items() if value == "" and stem_and_suffix(name)}
    left = [name for name in fields if name in texts and name not in used and not _is_id(name)]
    families = _families(left)
    if len(families) > 1:
        # Which model wrote an output, or a comment on it, is a family, too, and no output.
        families = [f for f in families if (stem_and_suffix(f[0]) or ("", ""))[0] not in _ABOUT] or families
    if len(families) == 1:
        [names] = families
        beside = [name for name in left if name not in names]
        if beside:
            notes.say(
                f"fields {', '.join(map(repr, beside))} are not read: {', '.join(map(repr, names))} are the "
                "outputs; ingest.outputs names others"
            )
        return Shown(asked, names, tuple(texts[name] for name in names), ordered=True)
    sure = not families and len(left) <= 2
    return Shown(asked, tuple(left), tuple(texts[name] for name in left), ordered=False, sure=sure)


def is_chat(value: Any) -> bool:
    """Whether a field is a list of messages, under whichever names."""
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(isinstance(turn, Mapping) and role_of(turn) is not None for turn in turns)


def ask_for_outputs(names: Sequence[str]) -> DataError:
    """The error that asks which fields are the outputs."""
    return DataError(
        f"nothing says which of the fields {', '.join(map(repr, names)) or '(none)'} are the outputs, and in "
        "which order; name them in ingest.outputs, such as [answer1, answer2]"
    )


def _asked(
    fields: Mapping[str, Any], texts: Mapping[str, str], chats: Mapping[str, Any], options: Options
) -> tuple[dict[str, Any], set[str]]:
    """The prompt, a text or a list of messages, and the fields that it takes."""
    system = next((name for name in texts if plain(name) in SYSTEMS and name != options.prompt), None)
    used = {system} if system else set()
    if options.prompt is not None and "{" in options.prompt:
        try:
            prompt: Any = options.prompt.format_map(fields)
        except (KeyError, ValueError, IndexError) as error:
            raise DataError(
                f"ingest.prompt: no field {error} among {', '.join(fields)}; write their names in braces"
            ) from None
        used |= {name for name in fields if f"{{{name}}}" in options.prompt}
    else:
        names = [*chats, *(name for key in PROMPTS for name in texts if plain(name) == key)]
        if options.prompt is not None:
            names = [options.prompt]
        if not names or names[0] not in {**texts, **chats}:
            raise DataError(
                f"no field for the prompt among {', '.join(fields) or '(none)'}; name it in ingest.prompt"
            )
        if len(names) > 1:
            both = " and ".join(map(repr, names))
            template = "\\n\\n".join(f"{{{name}}}" for name in names if name in texts) or names[0]
            raise DataError(
                f'fields {both} could each be the prompt; say which in ingest.prompt, or "{template}" for a '
                "text of several"
            )
        prompt = fields[names[0]]
        used.add(names[0])
    row: dict[str, Any] = {"prompt": prompt}
    if system is not None:
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        if turns and role_of(turns[0]) == "system":
            raise DataError(f"field {system!r} and the first message both are the system's; keep one of them")
        row = {"prompt": [{"role": "system", "content": texts[system]}, *turns]}
    return row, used


def _families(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ in a number or a letter alone, counted from 0 or 1 or from a, in order."""
    stems: dict[tuple[str, bool], list[tuple[int, str]]] = {}
    for name in names:
        if parted := stem_and_suffix(name):
            stem, suffix = parted
            place = int(suffix) if suffix.isdigit() else ord(suffix) - ord("a") + 1
            stems.setdefault((stem, suffix.isdigit()), []).append((place, name))
    groups = []
    for members in stems.values():
        members.sort()
        places = [place for place, _ in members]
        if len(members) > 1 and places[0] in (0, 1) and places == list(range(places[0], places[-1] + 1)):
            groups.append(tuple(name for _, name in members))
    return groups


def _is_id(name: str) -> bool:
    words = re.split(r"[\W_]+", name.casefold())
    return words[-1] in ("id", "uuid", "hash", "url")


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise DataError(f"no text field {name!r} among {', '.join(fields)}")
    return value
