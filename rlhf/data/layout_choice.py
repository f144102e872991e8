"""Which layout a part of a source has: the user's word, else its columns, and between tables its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlhf.data.contracts import JUDGMENT, TABLES, Contract
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Layout
from rlhf.data.layouts.recognise import LAYOUTS, recognise

_CONTRACTS: dict[str, Contract] = {**TABLES, "judgments": JUDGMENT}


def layout_of(
    columns: Mapping[str, str], wanted: str | None, table: str | None, say: Callable[[str], None]
) -> Layout:
    """The layout of a part.

    A file that is called `comparisons.jsonl` and has the columns of none, or of another table, is told what a
    comparison needs: its user meant one.

    Args:
        columns: name -> kind of its first records.
        wanted: the layout that the user names.
        table: the table that the name of the part says.
        say: gets a line where the name decided.

    Raises:
        DataError: no layout fits, or several do and the name does not decide.
    """
    if wanted is not None or table is None:
        return recognise(columns, wanted)
    fitting = [layout for layout in LAYOUTS if layout.fits(columns)]
    named = next(layout for layout in LAYOUTS if layout.name == table)
    if named in fitting:
        if len(fitting) > 1:
            others = ", ".join(layout.name for layout in fitting if layout is not named)
            say(f"read as {table}, as the file's name says; its columns could also be {others}")
        return named
    if any(layout.name not in _CONTRACTS for layout in fitting):
        return recognise(columns)
    contract = _CONTRACTS[table]
    told = (
        {"prompt", "completion"} if "messages" in columns else set()
    )  # messages may end with the completion
    lacking = [name for name in contract.required if name not in columns and name not in told]
    if not lacking:
        return named
    raise DataError(
        f"row 1: column {lacking[0]!r} is missing; a {contract.name} needs {', '.join(contract.required)}; "
        f"the columns are {', '.join(columns)}: map them in ingest.columns"
    )
