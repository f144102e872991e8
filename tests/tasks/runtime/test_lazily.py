"""A library that is imported lazily is loaded when it is used; one that is not there is missed at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

from tasks.runtime.lazily import lazily


def test_a_module_is_loaded_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("colorsys", "wave"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with lazily("colorsys"):
        import colorsys
        import wave
    kinds = [object.__getattribute__(module, "__class__").__name__ for module in (colorsys, wave)]
    assert kinds == ["_LazyModule", "module"]
    assert colorsys.rgb_to_hsv(0, 0, 1)[1:] == (1, 1)
    assert type(colorsys).__name__ == "module"
    del sys.modules["wave"]
    import wave

    assert type(wave).__name__ == "module"


def test_what_is_not_installed_is_missed_as_ever() -> None:
    with lazily("no_such_library"), pytest.raises(ModuleNotFoundError, match="no_such_library"):
        import no_such_library  # noqa: F401


def test_great_expectations_comes_without_what_only_rules_about_distributions_need() -> None:
    shown = (
        "import sys, tasks.rules.expectations as e; e.gx.get_context(mode='ephemeral'); "
        "print({'scipy.stats._stats_py', 'altair.vegalite'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", shown], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
