"""What stands beside a prompt and belongs to it: the system's words, and what a question is about.

Layouts of instruction sets join these themselves. For the others they are joined here, because an answer was
judged with them in view.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.data.layouts.instructions import INPUTS, SYSTEMS, with_context
from rlhf.data.layouts.layout import Item, Layout, Notes, Record, is_a

_PICTURES = ("image", "images", "video", "videos", "audio", "audios")
_ASKED = ("prompt", "question", "instruction", "query")


class PromptParts:
    """The columns of a part that go with its prompts.

    Args:
        layout: of the part; its own columns it reads itself.
        columns: name -> kind of the first records.
        keep: the columns that the user keeps beside the row; they are not joined.
        notes: gets which columns were joined.
    """

    def __init__(
        self, layout: Layout, columns: Mapping[str, str], keep: Collection[str], notes: Notes
    ) -> None:
        own = frozenset(columns) if layout.own is None else layout.own | set(keep)
        texts = [name for name in columns if name not in own and is_a(columns, name, "text")]
        asks = next((name for name in _ASKED if is_a(columns, name, "text")), None)
        self._asks, self._notes = asks, notes
        self._systems = [name for name in texts if name.lower() in SYSTEMS][:1]
        self._beside = [name for name in texts if asks is not None and name.lower() in INPUTS]
        self._pictures = [name for name in columns if name.lower() in _PICTURES]
        self.columns = frozenset((*self._systems, *self._beside))

    @property
    def none(self) -> bool:
        """Whether no column goes with the prompts, so that `joined` gives every item back as it is."""
        return not (self.columns or self._pictures)

    def joined(self, item: Item, record: Record) -> Item:
        """An item whose prompt has what stands beside it.

        Raises:
            DataError: the turns have another system text than the column; or the prompt shows a picture.
        """
        row, columns = item.row, record.columns
        for name in self._pictures:
            shown = columns.get(name)
            if shown and (isinstance(shown, (list, Mapping)) or f"<{name.lower().rstrip('s')}>" in str(row)):
                raise DataError(
                    f"column {name!r} holds what the prompt shows besides its text, and only text can be "
                    "read; leave such rows out (ingest.unreadable: quarantine), or the column where it shows "
                    "nothing"
                )
        if not self.columns or not row.get("prompt"):
            return item
        if self._beside and not row.get("messages"):
            beside = {name: columns.get(name) for name in self._beside}
            row["prompt"] = with_context(self._asks or "prompt", row["prompt"], beside, self._notes)
        for name in self._systems:
            if system := columns.get(name):
                self._notes.say(f"column {name!r} is the system's turn of the prompts")
                turns = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
                if turns[0]["role"] == "system":
                    if turns[0]["content"] != system:
                        raise DataError(
                            f"column {name!r} and the first message both are the system's; keep one of them"
                        )
                    continue
                row["messages"] = [{"role": "system", "content": system}, *turns]
                row["prompt"] = transcript(row["messages"])
        return item
