"""Which layout a file has, by the names and kinds of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rlhf.data.errors import DataError
from rlhf.data.layouts import (
    answers,
    arena,
    argilla,
    axolotl,
    chats,
    cnndm,
    contract,
    helpsteer,
    hh,
    instructions,
    label_studio,
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
    webgpt,
)
from rlhf.data.layouts.kinds import kinds
from rlhf.data.layouts.layout import Layout

__all__ = ["LAYOUTS", "kinds", "recognise"]

# Each is told from the others by columns that only it has, so their order does not matter.
LAYOUTS: tuple[Layout, ...] = (
    *contract.LAYOUTS,
    pairs.LAYOUT,
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
    *oasst.LAYOUTS,
    *swift.LAYOUTS,
    *argilla.LAYOUTS,
    *label_studio.LAYOUTS,
    *prodigy.LAYOUTS,
    parallel.LAYOUT,
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
            raise DataError(f"there is no layout {layout!r}; there are {_names(LAYOUTS)}")
        return named
    fitting = [known for known in LAYOUTS if known.fits(columns)]
    fitting = [known for known in fitting if not known.general] or fitting
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(columns) or "(none)"
    if fitting:
        raise DataError(f"columns {shown}: two layouts fit, {_names(fitting)}; say which in ingest.layout")
    raise DataError(
        f"columns {shown}: no known layout; map them in ingest.columns, such as "
        "{prompt: question, chosen: better_answer, rejected: other_answer}; docs/data.md lists the layouts"
    )


def _names(layouts: Iterable[Layout]) -> str:
    return ", ".join(layout.name for layout in layouts)
