"""How the house stands: the rooms of the library, the import arrows between them, circles, and what is long.

    python dev/house.py          # needs grimp, which `pip install -e '.[dev]'` brings

A room is a module or package right below rlhf/. An arrow means that at least one module of a room imports one
of another; imports for type checkers alone do not count. Exits with 1 where a count is above its limit.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rlhf", "tasks", "labeling", "flows")
ROOMS = 10  # most rooms in rlhf/
ARROWS = 25  # most arrows between them
OTHERS = 4  # most modules in tasks/ that are no stage
LONG_FILE, LONG_CLASS = 400, 300  # a file or class of more lines needs a reason


def stage_modules() -> set[str]:
    """The modules of tasks/ that dvc.yaml runs."""
    return set(re.findall(r"cmd: python -m tasks\.(\w+)", (ROOT / "dvc.yaml").read_text()))


def arrows(graph: grimp.ImportGraph, package: str) -> set[tuple[str, str]]:
    """(importer, imported) for the modules and packages right below a package; an arrow counts once."""
    rooms = sorted(graph.find_children(package))
    for room in rooms:
        graph.squash_module(room)
    return {
        (a, b) for a in rooms for b in rooms if a != b and graph.direct_import_exists(importer=a, imported=b)
    }


def on_circles(edges: set[tuple[str, str]]) -> set[str]:
    """The rooms that lie on a circle of imports or import, directly or not, one that does."""
    # Take away the rooms that import none of those left, until no more can be taken away.
    rest = {room for edge in edges for room in edge}
    while free := {room for room in rest if not any(a == room and b in rest for a, b in edges)}:
        rest -= free
    return rest


def long_parts() -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Files and classes above the limits with their numbers of lines, the longest first."""
    files, classes = [], []
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        files.append((text.count("\n"), name))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.end_lineno:
                classes.append((node.end_lineno - node.lineno + 1, f"{name}: {node.name}"))
    return (
        sorted((entry for entry in files if entry[0] > LONG_FILE), reverse=True),
        sorted((entry for entry in classes if entry[0] > LONG_CLASS), reverse=True),
    )


def main() -> int:
    """Print the counts; 1 where one is above its limit."""
    sys.path.insert(0, str(ROOT))  # this checkout's packages, wherever the installed ones lie
    graph = grimp.build_graph("rlhf", exclude_type_checking_imports=True, cache_dir=None)
    rooms = sorted(room.removeprefix("rlhf.") for room in graph.find_children("rlhf"))
    edges = arrows(graph, "rlhf")
    circles = on_circles(edges)
    stages = stage_modules()
    others = sorted(p.stem for p in (ROOT / "tasks").glob("*.py") if p.stem not in {*stages, "__init__"})
    print(f"rooms in rlhf/: {len(rooms)} (at most {ROOMS}): {', '.join(rooms)}")
    print(f"arrows between them: {len(edges)} (at most {ARROWS})")
    for room in rooms:
        imported = sorted(b.removeprefix("rlhf.") for a, b in edges if a == f"rlhf.{room}")
        print(f"  {room:<9} -> {', '.join(imported) or '-'}")
    print(f"rooms on a circle: {', '.join(sorted(circles)) or 'none'}")
    print(f"in tasks/ besides stages: {len(others)} (at most {OTHERS}): {', '.join(others)}, and runtime/")
    files, classes = long_parts()
    for kind, limit, parts in (("files", LONG_FILE, files), ("classes", LONG_CLASS, classes)):
        print(f"{kind} longer than {limit} lines: {len(parts)}")
        for lines, name in parts:
            print(f"  {lines:>4} {name}")
    return int(len(rooms) > ROOMS or len(edges) > ARROWS or bool(circles) or len(others) > OTHERS)


if __name__ == "__main__":
    sys.exit(main())
