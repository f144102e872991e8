"""Every row of docs/security.md names tests, and all of them are there."""

from __future__ import annotations

import ast
import re

from conftest import ROOT

PAGE = (ROOT / "docs/security.md").read_text()


def rows() -> list[list[str]]:
    table = PAGE.split("## What stands in the way")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_every_row_names_tests_that_are_there() -> None:
    named = rows()
    assert len(named) > 20
    for name, threat, defence, shown in named:
        assert threat
        assert defence
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
        assert tests, f"{name}: no test"
        assert shown.count("`") == 2 * len(tests), name
        for path, function in tests:
            tree = ast.parse((ROOT / path).read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
                function
            )
