"""The docs against the files: README's tree has a line for every module, and no page names a missing file."""

from __future__ import annotations

import re
import subprocess

import pytest
from conftest import ROOT

PACKAGES = ("flows", "tasks", "labeling", "rlhf")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").rglob("*.md"))]
# Nobody has to know them: they only say what a package is, start what another file has, or change tables.
UNSAID = re.compile(r"__init__\.py$|flows/services/__main__\.py$|/migrations/")


def tree() -> dict[str, str]:
    """Path -> line, as README's tree has them by its indentation."""
    text = (ROOT / "README.md").read_text().split("## The tree")[1].split("```text\n")[1].split("```")[0]
    paths: dict[str, str] = {}
    folders: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"( *)([\w.]+/?) +(\S.*)", line):
            indent, name, said = match.groups()
            folders[len(indent) // 2 :] = [name]
            paths["".join(folders)] = said
    return paths


def test_the_tree_has_a_line_for_every_module_and_no_other() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    modules = {name for name in listed if name.startswith(PACKAGES) and (ROOT / name).exists()}
    told = {path for path in tree() if path.endswith(".py") and path.startswith(PACKAGES)}
    assert sorted(name for name in modules - told if not UNSAID.search(name)) == []
    assert sorted(told - modules) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page) -> None:
    names = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|yaml|toml))\b", page.read_text())
    assert [name for name in names if "NAME" not in name and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
