"""A module that is imported lazily is loaded when it is used; one that is not there is missed at once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import new_class
from typing import Any

import pytest

from tasks.runtime import lazily as module
from tasks.runtime.lazily import lazily, load, waiting, when_loaded

# A package that says when it is executed, with a part that needs another one; and its user, as libraries are.
FILES = {
    "heavy/__init__.py": (
        "import said; said.words.append('heavy')\nfrom heavy.part import Shape, area\nTEN = 10\n"
    ),
    "heavy/part.py": (
        "import said; said.words.append('part')\n"
        "class Shape:\n    sides = 4\n    def __class_getitem__(cls, kind): return kind\n"
        "    def __call__(self): return 'called'\n    def __eq__(self, other): return 'compared'\n"
        "def area(side): return side * side\n"
        "NAMES = ['a', 'b']\n"
    ),
    "said.py": "words = []\n",
    "user.py": (
        "import heavy\nfrom heavy import TEN, Shape, area\nfrom heavy.part import NAMES\n"
        "def kind(of: Shape | None = None, other: 'int | Shape' = 0): return isinstance(of, (int, Shape))\n"
    ),
}


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(module, "_waiting", {})
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    lazily("heavy")
    import user

    assert waiting("heavy.part.deep") == "heavy"
    yield user
    for name in list(sys.modules):
        if name.split(".")[0] in ("heavy", "said", "user"):
            del sys.modules[name]


def executed() -> list[str]:
    return getattr(sys.modules.get("said"), "words", [])


def test_importing_it_and_asking_for_its_classes_executes_nothing(user: Any) -> None:
    assert not user.kind("thing")
    assert user.kind(1)
    assert executed() == []
    assert waiting("heavy")


@pytest.mark.parametrize(
    ("use", "result"),
    [
        (lambda user: user.area(3), 9),
        (lambda user: user.heavy.area(3), 9),
        (lambda user: user.heavy.part.area(3), 9),
        (lambda user: user.Shape().sides, 4),
        (lambda user: user.Shape.sides, 4),
        (lambda user: user.Shape()(), "called"),
        (lambda user: user.Shape == user.heavy.part.Shape, True),
        (lambda user: user.Shape[int], int),
        (lambda user: user.TEN == 10, True),
        (lambda user: {10: "ten"}[user.TEN], "ten"),
        (lambda user: f"{user.TEN}", "10"),
        (lambda user: ["a" in user.NAMES, len(user.NAMES), *user.NAMES], [True, 2, "a", "b"]),
        (lambda user: new_class("Own", (user.Shape,))().sides, 4),
        (lambda user: user.kind(user.Shape()), True),
    ],
)
def test_its_first_use_loads_it_whole_and_once(use: Any, result: Any, user: Any) -> None:
    assert use(user) == result
    assert use(user) == result
    assert executed() == ["heavy", "part"]
    assert not waiting("heavy")
    import heavy

    assert type(heavy).__name__ == "module"
    assert isinstance(heavy.Shape(), user.Shape)


def test_what_is_not_installed_is_missed_as_ever() -> None:
    lazily("no_such_library", "heavy")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        import no_such_library  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        import heavy.no_such_part  # noqa: F401


def test_what_waits_can_be_loaded_without_a_use(user: Any) -> None:
    load("heavy", "said")
    assert executed() == ["heavy", "part"]
    assert user.area(3) == 9


def test_something_is_done_to_a_module_as_soon_as_it_has_been_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_loaded", {})
    when_loaded("colorsys", lambda loaded: setattr(loaded, "ONE_THIRD", "a third"))
    when_loaded("no_such_library", print)
    from colorsys import ONE_THIRD  # which it had as a number

    assert ONE_THIRD == "a third"
    assert inspect.getsource(sys.modules["colorsys"])
    when_loaded("colorsys", lambda loaded: setattr(loaded, "ONE_THIRD", "now"))
    assert sys.modules["colorsys"].ONE_THIRD == "now"
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        import no_such_library  # noqa: F401


def test_a_module_that_is_loaded_stays_as_it_is(user: Any) -> None:
    lazily("json")
    assert not waiting("json")


def test_a_name_that_it_has_not_got_is_missed_when_it_is_used(user: Any) -> None:
    from heavy import no_such_name

    with pytest.raises(AttributeError, match="no_such_name"):
        no_such_name()


def test_names_that_are_served_without_it_and_what_waits_with_it() -> None:
    module._waiting.clear()
    for name in ("heavy", "heavy.part", "user"):
        del sys.modules[name]
    seen: list[str | None] = []
    early = {"heavy": {"area": lambda side: -side}}
    lazily("heavy", "colorsys", early=early, afterwards=lambda: seen.append(waiting("colorsys")))
    from heavy import area

    assert area(3) == -3
    assert executed() == seen == []
    import user  # as it is with these names

    assert waiting("colorsys") == "colorsys"
    assert user.Shape.sides == 4
    assert seen == [None]
    import heavy

    assert heavy.area(3) == 9
