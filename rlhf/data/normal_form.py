"""The normal form of rows, and their ids, a batch at a time.

Texts are stripped and completions stand behind one space, as a plain prompt wants them. White space that is
part of code stays: that of conversations and their answers, because templates differ in what they strip, and
that of completions which begin with an indent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.contracts import Contract
from rlhf.data.json_texts import row_json
from rlhf.data.table import IN_HAND, Table

DIGEST = 8  # bytes of an id
# A completion that begins with an indent, perhaps behind line breaks: a tab, four spaces, or fewer and it
# goes on in another line. That is code, in all likelihood, or a list. A blank or a line break too many in
# front of a sentence is none.
_INDENTED = r"\A(?:(?:\s*\n)?(?:\t|    )\s*\S|(?:\s*\n)?  [ ]?\S.*\n\s*\S)"


def answer_behind(prompt_is_plain: bool, text: str) -> str:
    """A completion in normal form; see `normal`, which does the same with many.

        >>> answer_behind(True, "Sew it.\\n")
        ' Sew it.'
        >>> answer_behind(True, "\\n    return 0\\n")
        '\\n    return 0\\n'

    Args:
        prompt_is_plain: whether it answers a text; else it answers turns and stays as it is.
        text: the completion.
    """
    return text if not prompt_is_plain or indented(text) else " " + text.strip()


def indented(text: str) -> bool:
    """Whether a completion begins as code does, so that the white space around it stays."""
    return re.match(_INDENTED, text) is not None


def normal(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of any contract with its texts in normal form; columns that it lacks are not needed."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in ("text", "prompt"):
        if name in columns:
            columns[name] = stripped(columns[name])
    turns = columns.get("messages")
    plain = pa.array(np.ones(batch.num_rows, bool)) if turns is None else turns.is_null()
    if turns is not None and turns.null_count < len(turns):
        columns["messages"] = _inside(turns, _turns)
    if "completion" in columns:
        columns["completion"] = _answers(columns["completion"], plain)
    if "completions" in columns:
        texts = columns["completions"]
        parents = pc.list_parent_indices(texts)
        columns["completions"] = _inside(texts, lambda inside: _answers(inside, plain.take(parents)))
    return pa.RecordBatch.from_arrays([columns[name] for name in batch.schema.names], schema=batch.schema)


def stripped(texts: pa.Array) -> pa.Array:
    """Texts with line feeds for line ends, and no white space around them."""
    return pc.utf8_trim_whitespace(_lines(texts))


def _lines(texts: pa.Array) -> pa.Array:
    return pc.replace_substring(texts, pattern="\r\n", replacement="\n")


def _answers(texts: pa.Array, plain: pa.Array) -> pa.Array:
    """Completions: after one space behind a plain prompt, as they are behind a conversation or where they
    begin with an indent."""
    lines = _lines(texts)
    after_a_space = pc.binary_join_element_wise(pa.scalar(""), stripped(texts), pa.scalar(" "))
    kept = pc.or_(pc.invert(plain), pc.fill_null(pc.match_substring_regex(lines, _INDENTED), False))
    return pc.if_else(kept, lines, after_a_space) if pc.any(kept).as_py() else after_a_space


def _turns(turns: pa.Array) -> pa.Array:
    role, content = (turns.field(name) for name in ("role", "content"))
    return pa.StructArray.from_arrays([role, _lines(content)], fields=list(turns.type), mask=turns.is_null())


def _inside(lists: pa.Array, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Lists with their items changed, each into another."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(ends, change(lists.flatten()), type=lists.type, mask=lists.is_null())


def ids_of(contract: Contract, batch: pa.RecordBatch) -> pa.StringArray:
    """The ids of rows, equal to `contracts.row_id` of each."""
    return spelled(digests_of(contract, batch))


def spelled(digests: bytes) -> pa.StringArray:
    """Ids of `DIGEST` bytes each, in hex digits."""
    digits = digests.hex().encode()
    ends = np.arange(0, len(digits) + 1, 2 * DIGEST, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(digits))


def digests_of(contract: Contract, batch: pa.RecordBatch) -> bytes:
    """The ids of rows as they are before they are spelled in hex digits, `DIGEST` bytes each."""
    parts = []
    for start in range(0, batch.num_rows, IN_HAND):
        some = batch.slice(start, IN_HAND)
        turns = some.column("messages") if "messages" in batch.schema.names else None
        told = row_json([some.column(name) for name in contract.content], turns)
        parts += [sha256(content).digest()[:DIGEST] for content in told.to_pylist()]
    return b"".join(parts)


class Ids:
    """The ids of a table's rows: that of their content, but for ids that rows bring.

    An id that a row brought and that was right moves with the normal form; rows that share it still do.

    Args:
        contract: of the rows.
        raw: the table before the normal form.
    """

    def __init__(self, contract: Contract, raw: Table) -> None:
        self.contract = contract
        self._moved: dict[str, str] = {}
        if raw.column("id").null_count == len(raw):
            return  # the texts need not be read
        turns = ["messages"] if "messages" in contract.schema.names else []
        for batch in raw.batches([*contract.content, *turns, "id"]):
            brought = batch.column("id")
            if brought.null_count < len(brought):
                batch = batch.filter(brought.is_valid())
                was, own = batch.column("id"), ids_of(contract, batch)
                new = ids_of(contract, normal(batch))
                moved = pc.and_(pc.equal(was, own), pc.not_equal(own, new))
                self._moved.update(
                    zip(values_of(own.filter(moved)), values_of(new.filter(moved)), strict=True)
                )

    def of_rows(self, batch: pa.RecordBatch) -> pa.Array:
        """The ids of rows in normal form."""
        own = ids_of(self.contract, batch)
        brought = batch.column("id") if "id" in batch.schema.names else pa.nulls(batch.num_rows)
        if brought.null_count == len(brought):
            return own
        moved = [
            self._moved.get(was, was) or now
            for was, now in zip(values_of(brought), values_of(own), strict=True)
        ]
        return pa.array(moved, pa.string())
