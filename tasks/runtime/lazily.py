"""Modules that libraries import and that we hardly ever use: loaded when somebody uses them; and what is done
to a module as soon as it has been loaded.

A module that is named to `lazily` is not executed when it is imported: an empty one stands in its place, and
a name that is imported from it is a proxy. The first use of either, be it a call, an attribute or a subclass,
loads the module with all its parts, and from then on the proxies pass everything on to it. Lazy imports (PEP
810) will do this in Python 3.15.

Two things a proxy cannot do: it is not identical to what it stands for, and it catches no exception. So the
importing library has to be read before a name is added to a list.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_waiting: dict[str, _Group] = {}  # module that is not loaded yet -> the group that waits with it
_loaded: dict[str, Callable[[ModuleType], object]] = {}  # module -> what is done to it once it is loaded


@dataclass
class _Group:
    names: tuple[str, ...]
    early: Mapping[str, Mapping[str, Any]]
    afterwards: Callable[[], object]


def lazily(
    *names: str,
    early: Mapping[str, Mapping[str, Any]] | None = None,
    afterwards: Callable[[], object] = lambda: None,
) -> None:
    """From now on an import of these modules, or of their parts, costs nothing until one of them is used.

    They wait together, because modules that import each other need each other whole: the use of one ends the
    waiting of all. A module that has been loaded stays as it is, and one that is not installed is missed as
    ever.

    Args:
        names: modules, dotted.
        early: module -> what stands for some of its names until then, where these are used all the time.
        afterwards: is called when they no longer wait.
    """
    _find_first()
    group = _Group(names, early or {}, afterwards)
    _waiting.update({name: group for name in names if name not in sys.modules})


def when_loaded(name: str, then: Callable[[ModuleType], object]) -> None:
    """Once this module has been executed, and before anybody else gets it, `then` is called with it.

    For a module that has been loaded already that is now.
    """
    if name in sys.modules:
        then(sys.modules[name])
    else:
        _find_first()
        _loaded[name] = then


def _find_first() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def waiting(name: str) -> str | None:
    """The module named to `lazily` to which this one belongs, or which it is, if that is not loaded yet."""
    return next((root for root in list(_waiting) if name == root or name.startswith(f"{root}.")), None)


def load(*names: str) -> None:
    """Load these modules, if they are still waiting."""
    for name in names:
        if waiting(name):
            _load(name)


class _Finder(Loader):
    """Finds the modules as Python does, and has an empty one made in the place of each."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = waiting(name) or name in _loaded
        if not known or not (spec := PathFinder.find_spec(name, path, target)):
            return None  # not ours, or not installed: the other finders say so
        if name in _loaded:
            if spec.loader:
                spec.loader = _Then(spec.loader, _loaded.pop(name))
            return spec
        empty = ModuleSpec(name, self, origin=spec.origin, is_package=True)
        empty.submodule_search_locations = spec.submodule_search_locations or []
        return empty

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing of it is executed."""


class _Then(Loader):
    """Loads a module as ever, and then has something done to it."""

    def __init__(self, loader: Loader, then: Callable[[ModuleType], object]) -> None:
        self.loader, self.then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__:  # from here on it is a module like others, also for those who ask for its source
            module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.then(module)


class _Empty(ModuleType):
    """Stands for a module that is not loaded yet."""

    def __getattr__(self, name: str) -> Any:
        where = self.__name__
        root = waiting(where)
        if not root:
            return getattr(_load(where), name)
        if name.startswith("__"):  # Python itself asks for such names, as for __all__
            raise AttributeError(name)
        early = _waiting[root].early.get(where, {})
        if name in early:
            return early[name]
        return Proxy(where, name)


class Proxy:
    """Stands for a name of such a module, and passes on what is done with it."""

    def __init__(self, where: str, name: str) -> None:
        self.__dict__["_proxy_of"] = (where, name)

    def __instancecheck__(self, thing: object) -> bool:
        if waiting(self.__dict__["_proxy_of"][0]):
            return False  # its class is not even loaded
        return isinstance(thing, _real(self))

    def __getattr__(self, name: str) -> Any:
        return getattr(_real(self), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_real(self),)

    def __or__(self, other: Any) -> Any:  # in an annotation
        return Any

    __ror__ = __or__


def _real(proxy: Proxy) -> Any:
    where, name = proxy.__dict__["_proxy_of"]
    return getattr(_load(where), name)


def _load(where: str) -> ModuleType:
    """The module itself; it and all that wait with it are imported as ever from now on."""
    root = waiting(where)
    group = _waiting[root] if root else _Group((), {}, lambda: None)
    for name in group.names:
        _waiting.pop(name, None)
    for name, module in list(sys.modules.items()):
        if isinstance(module, _Empty) and not waiting(name):
            sys.modules.pop(name, None)
    group.afterwards()
    return import_module(where)


def _passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    def pass_on(self: Proxy, *arguments: Any, **named: Any) -> Any:
        return function(_real(self), *arguments, **named)

    return pass_on


_OPERATORS: dict[str, Callable[..., Any]] = {  # Python looks these up in the class, and not as attributes
    "__call__": operator.call,
    "__str__": str,
    "__eq__": operator.eq,
    "__hash__": hash,
    "__len__": len,
    "__iter__": iter,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
}
for _name, _function in _OPERATORS.items():
    setattr(Proxy, _name, _passing_on(_function))
