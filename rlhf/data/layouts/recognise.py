"""Which layout a file has, by the names and kinds of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from rlhf.data.errors import DataError
from rlhf.data.layouts import (
    answers,
    arena,
    argilla,
    axolotl,
    best_of,
    chats,
    cnndm,
    contract,
    helpsteer,
    hh,
    instructions,
    label_studio,
    label_studio_flat,
    named_pairs,
    oasst,
    pairs,
    parallel,
    pku,
    prodigy,
    qa_feedback,
    scitldr,
    shp,
    spreadsheet,
    summaries,
    swift,
    thumbs,
    webgpt,
)
from rlhf.data.layouts.kinds import kinds
from rlhf.data.layouts.layout import Layout, Record
from rlhf.data.layouts.values import these, words
from rlhf.data.near import meant

__all__ = ["LAYOUTS", "kinds", "recognise"]

_SHOWN = ("demonstrations", "instructions", "conversations")  # layouts whose answers are learnt as they are
_JUDGING = these(
    "safe unsafe correct incorrect accepted accept rejected reject flagged toxic harmful helpful good bad "
    "approved valid invalid hallucinated acceptable passed failed wrong right true"
)
# Each is told from the others by columns that only it has, so their order does not matter.
LAYOUTS: tuple[Layout, ...] = (
    *contract.LAYOUTS,
    pairs.LAYOUT,
    named_pairs.LAYOUT,
    hh.LAYOUT,
    *axolotl.LAYOUTS,
    instructions.LAYOUT,
    chats.LAYOUT,
    answers.LAYOUT,
    *helpsteer.LAYOUTS,
    shp.LAYOUT,
    webgpt.LAYOUT,
    *summaries.LAYOUTS,
    pku.LAYOUT,
    arena.LAYOUT,
    arena.FLAGS,
    *oasst.LAYOUTS,
    *swift.LAYOUTS,
    thumbs.LAYOUT,
    *argilla.LAYOUTS,
    label_studio.LAYOUT,
    label_studio_flat.LAYOUT,
    *prodigy.LAYOUTS,
    parallel.LAYOUT,
    best_of.LAYOUT,
    scitldr.LAYOUT,
    qa_feedback.LAYOUT,
    *cnndm.LAYOUTS,
    spreadsheet.LAYOUT,
)


def recognise(columns: Mapping[str, str], layout: str | None = None) -> Layout:
    """The layout of columns.

    Args:
        columns: name -> kind.
        layout: its name, where the user says it.

    Raises:
        DataError: no layout of that name; none fits, or several do.
    """
    if layout is not None:
        named = next((known for known in LAYOUTS if known.name == layout), None)
        if named is None:
            near = meant(layout, (known.name for known in LAYOUTS))
            raise DataError(f"there is no layout {layout!r}{near}; there are {_names(LAYOUTS)}")
        return named
    fitting = _fitting(columns)
    small = {small_name(name): kind for name, kind in columns.items()}
    if not fitting and len(small) == len(columns):
        fitting = [in_small_letters(known, columns) for known in _fitting(small)]
    if len(fitting) == 1:
        _all_are_good(columns, fitting[0])
        return fitting[0]
    told = (
        f"{name} ({kind})" if kind in ("number", "bool", "other", "mixed") else name
        for name, kind in columns.items()
    )
    shown = ", ".join(told) or "(none)"
    if fitting:
        raise DataError(f"columns {shown}: two layouts fit, {_names(fitting)}; say which in ingest.layout")
    if "completions" in columns:
        raise DataError(
            f"columns {shown}: answers that nobody has ranked; add a ranking such as [2, 1], or a score for "
            "each, or let people rank them in the label app"
        )
    raise DataError(
        f"columns {shown}: no known layout; map them in ingest.columns, such as "
        "{prompt: question, chosen: better_answer, rejected: other_answer}, or, where a column says which is "
        "better, {prompt: question, response_a: one, response_b: other, preference: verdict}"
        f"{_inside(columns)}; docs/data.md lists the layouts"
    )


def _all_are_good(columns: Mapping[str, str], layout: Layout) -> None:
    """Refuse demonstrations beside a truth value that says which of them are good.

    Raises:
        DataError: there is such a column.
    """
    own = layout.own or frozenset()
    judged = [
        n for n, kind in columns.items() if kind == "bool" and n not in own and set(words(n)) & _JUDGING
    ]
    if layout.name in _SHOWN and judged:
        raise DataError(
            f"column {judged[0]!r} says which answers are good: say ingest.columns: {{label: {judged[0]}}} "
            f"where true is good, so that they are votes, or ingest.layout: {layout.name} where all may be "
            "learnt"
        )


def _inside(columns: Mapping[str, str]) -> str:
    """How to name what an object holds, where a column is one."""
    name = next((name for name, kind in columns.items() if kind == "object"), None)
    return f", where {name}.prompt is what {name!r} holds under prompt" if name else ""


def _fitting(columns: Mapping[str, str]) -> list[Layout]:
    fitting = [known for known in LAYOUTS if known.fits(columns)]
    tools = [known for known in fitting if known.of_tool]
    return tools or [known for known in fitting if not known.general] or fitting


def small_name(name: str) -> str:
    """A column's name as layouts spell theirs: `Chosen Response` is `chosen_response`."""
    return "_".join(name.lower().replace("-", " ").split())


def in_small_letters(layout: Layout, columns: Iterable[str]) -> Layout:
    """The layout for a file that spells its columns in another way.

    Args:
        layout: as it is.
        columns: the file's.
    """
    if layout.own is None:
        return layout
    spelled = {name: small_name(name) for name in columns if small_name(name) in layout.own}

    def renamed(records: Iterable[Record]) -> Iterator[Record]:
        for where, values in records:
            yield Record(where, {spelled.get(name, name): value for name, value in values.items()})

    return replace(
        layout,
        groups=lambda records: layout.groups(renamed(records)),
        own=layout.own | frozenset(spelled),
    )


def _names(layouts: Iterable[Layout]) -> str:
    return ", ".join(layout.name for layout in layouts)
