"""How the house stands: rooms of the library, import arrows between them, circles, what is long.

    python -m dev.house          # run in the repository root; needs grimp, which `.[dev]` brings

Exits with 1 where a number is above its limit.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp

PACKAGES = ("rlhf", "tasks", "labeling", "flows")
STAGES = (
    "ingest",
    "prepare",
    "validate",
    "pretrain",
    "sft",
    "collect",
    "reward",
    "ppo",
    "evaluate",
    "register",
)
ROOMS, ARROWS, OTHERS = (
    10,
    25,
    4,
)  # most rooms in rlhf/, arrows between them, modules in tasks/ besides stages
LONG_FILE, LONG_CLASS = 400, 300  # lines from which a file or class needs a reason


def arrows(graph: grimp.ImportGraph, package: str) -> set[tuple[str, str]]:
    """(importer, imported) for the modules and packages right below a package; an arrow counts once."""
    rooms = sorted(graph.find_children(package))
    for room in rooms:
        graph.squash_module(room)
    return {
        (a, b) for a in rooms for b in rooms if a != b and graph.direct_import_exists(importer=a, imported=b)
    }


def circles(edges: set[tuple[str, str]]) -> set[str]:
    """The rooms that lie on a circle of imports, or lead to one."""
    # Rooms that import none of those left are taken away, again and again.
    rest = {room for edge in edges for room in edge}
    while free := {room for room in rest if not any(a == room and b in rest for a, b in edges)}:
        rest -= free
    return rest


def long_parts() -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Files and classes above the limits, with their lines, the longest first."""
    files, classes = [], []
    for path in sorted(path for package in PACKAGES for path in Path(package).rglob("*.py")):
        text = path.read_text()
        files.append((text.count("\n"), path.as_posix()))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.end_lineno:
                classes.append((node.end_lineno - node.lineno + 1, f"{path}: {node.name}"))
    return (
        sorted((entry for entry in files if entry[0] > LONG_FILE), reverse=True),
        sorted((entry for entry in classes if entry[0] > LONG_CLASS), reverse=True),
    )


def main() -> int:
    """Print the counts; 1 where one is above its limit."""
    edges = arrows(grimp.build_graph("rlhf", exclude_type_checking_imports=True, cache_dir=None), "rlhf")
    rooms = sorted(
        p.stem for p in Path("rlhf").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    )
    rooms.remove("__init__")
    others = sorted(p.stem for p in Path("tasks").glob("*.py") if p.stem not in (*STAGES, "__init__"))
    round_trips = circles(edges)
    print(f"rooms in rlhf/: {len(rooms)} (at most {ROOMS}): {', '.join(rooms)}")
    print(f"arrows between them: {len(edges)} (at most {ARROWS})")
    for room in rooms:
        into = sorted(b.removeprefix("rlhf.") for a, b in edges if a == f"rlhf.{room}")
        print(f"  {room:<9} -> {', '.join(into) or '-'}")
    print(f"rooms on a circle: {', '.join(sorted(round_trips)) or 'none'}")
    print(f"in tasks/ besides stages: {len(others)} (at most {OTHERS}): {', '.join(others)}, and runtime/")
    for what, parts in zip(("files", "classes"), long_parts(), strict=True):
        print(f"{what} longer than {LONG_FILE if what == 'files' else LONG_CLASS} lines: {len(parts)}")
        for lines, name in parts:
            print(f"  {lines:>4} {name}")
    return int(len(rooms) > ROOMS or len(edges) > ARROWS or bool(round_trips) or len(others) > OTHERS)


if __name__ == "__main__":
    sys.exit(main())
