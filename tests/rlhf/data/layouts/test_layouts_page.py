"""docs/data.md lists the layouts as the code knows them."""

from __future__ import annotations

from conftest import ROOT

from rlhf.data.layouts.__main__ import table
from rlhf.data.layouts.recognise import LAYOUTS


def test_the_page_has_the_table_of_the_code() -> None:
    assert table() in (ROOT / "docs" / "data.md").read_text(), "write it: python -m rlhf.data.layouts"


def test_names_are_unique_and_each_layout_says_what_it_is() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)
    assert all(layout.about and layout.columns and "|" not in layout.about for layout in LAYOUTS)
