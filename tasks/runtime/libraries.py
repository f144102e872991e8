"""What libraries load at their import and a command of ours does not use: most of the start of a stage.

Each list says who imports it and what for. None of it is gone: what is used after all is loaded then (see
`lazily`), and models of any architecture, adapters and several processes work as ever. What
they search at their import is searched once, to the same result.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from tasks.runtime.lazily import Proxy, lazily, load, when_loaded

_DYNAMO = "torch._dynamo"
# The compiler, of which `_torch` says what else is asked, and tensors over several devices: transformers,
# accelerate and TRL ask whether a tensor is one.
TORCH = (
    _DYNAMO,
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "transformers.distributed.expert_parallel",
    "transformers.distributed.tensor_parallel",
)
# Sizes that are not known yet, which only a compiler has, and the algebra of their formulas: PyTorch asks as
# soon as a model is made on the device "meta", as it is before it gets its weights.
SIZES = ("torch.fx.experimental.symbolic_shapes", "sympy")
# MLflow's judges of language models, and the gateway to these, which brings a web server.
MLFLOW = (
    "mlflow.gateway",
    "mlflow.genai.evaluation",
    "mlflow.genai.judges",
    "mlflow.genai.labeling",
    "mlflow.genai.optimize",
    "mlflow.genai.prompts",
    "mlflow.genai.review_queues",
    "mlflow.genai.scorers",
    "mlflow.genai.simulators",
)
# scipy.optimize: the losses of models that find objects in images, among those of all tasks in transformers.
# scipy.stats, altair: the expectations about distributions in Great Expectations, and their charts.
SCIPY = ("scipy.optimize", "scipy.stats")
OTHERS = (
    "altair",
    "peft",  # transformers, TRL and our PPO ask whether a model has adapters
    "google.oauth2",  # stores at Google in Great Expectations
    "boto3",  # Amazon SageMaker in accelerate, stores on S3 in Great Expectations
    "mako.ext.pygmentplugin",  # Alembic's templates would colour the source of an error in a page
)
MODULES = (*TORCH, *SIZES, *MLFLOW, *SCIPY, *OTHERS)


def load_lazily() -> None:
    """Let these modules wait until somebody uses them."""
    _torch()
    _sizes()
    for names in (MLFLOW, SCIPY, *((name,) for name in OTHERS)):
        lazily(*names)
    when_loaded("importlib.metadata", _read_once)
    when_loaded("transformers.utils.import_utils", _search_quickly)
    when_loaded("torch._library.utils", _name_place)


def _read_once(metadata: Any) -> None:
    """MLflow asks nine times at its import which plugins are installed, for which Python reads a file of each
    distribution each time."""
    plugins = metadata.entry_points
    known = functools.cache(lambda path: plugins())  # for as long as the places to look at are the same

    def entry_points(**chosen: Any) -> Any:
        return known(tuple(sys.path)).select(**chosen) if chosen else plugins()

    metadata.entry_points = functools.wraps(plugins)(entry_points)


def _search_quickly(import_utils: Any) -> None:
    """At its import transformers searches the code of all its models for what each exports, line by line, and
    searches it again for `transformers.models`."""
    exports, read = import_utils.fetch__all__, functools.cache(import_utils.create_import_structure_from_path)

    def last_exports(code: str) -> Any:
        return exports(code[code.rfind("\n__all__") + 1 :])

    @functools.wraps(read)
    def structure(path: str | os.PathLike[str]) -> Any:
        path = os.fspath(path)
        return read(os.path.dirname(path) if os.path.isfile(path) else path)

    import_utils.fetch__all__ = last_exports
    import_utils.create_import_structure_from_path = structure


def _name_place(utils: Any) -> None:
    """PyTorch notes of each operator in which line it is defined, and to that end looks at the files of all
    modules, only to ask for the lines around it and not to use them."""

    def place(stacklevel: int) -> str:
        frame = sys._getframe(stacklevel)
        return f"{frame.f_code.co_filename}:{frame.f_lineno}"

    utils.get_source = place


def _sizes() -> None:
    """What PyTorch asks of numbers and conditions that may depend on such sizes is plain where none does."""

    def where_known(name: str, answer: Callable[..., bool]) -> Callable[..., Any]:
        unknown: Any = Proxy(SIZES[0], name)

        def asked(*arguments: Any, **named: Any) -> Any:
            known = all(map(_is_known, arguments))
            return answer(*arguments) if known else unknown(*arguments, **named)

        return asked

    conditions = ("expect_true", "guard_or_false", "guard_or_true", "statically_known_true")
    answers: dict[str, Callable[..., bool]] = {name: lambda condition, *_: condition for name in conditions}
    answers |= {
        "is_nested_int": lambda number: False,
        "sym_and": lambda *conditions: all(conditions),
        "sym_or": lambda *conditions: any(conditions),
        "sym_eq": lambda one, other: one == other if isinstance(one, int) else list(one) == list(other),
    }
    lazily(*SIZES, early={SIZES[0]: {name: where_known(name, answer) for name, answer in answers.items()}})


def _is_known(asked: Any) -> bool:
    """Whether this is a number or a condition, or a shape of numbers, and nothing symbolic."""
    if isinstance(asked, (tuple, list)):
        return all(isinstance(size, int) for size in asked)
    return isinstance(asked, int)


def _torch() -> None:
    """Some names of the compiler are used all the time, and stand for what they are where nobody compiles:
    transformers and torch mark functions for it, and an optimizer tells it at each step that a graph ends.
    """
    marks: list[Callable[[ModuleType], Any]] = []  # what the compiler is told when it is loaded

    def marking(name: str) -> Callable[[Any], Any]:
        def mark(function: Any) -> Any:
            marks.append(lambda dynamo: getattr(dynamo, name)(function))
            return function

        return mark

    def disable(function: Any = None, recursive: bool = True, **how: Any) -> Any:
        if function is None:
            return functools.partial(disable, recursive=recursive, **how)
        called = [function]

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return called[0](*arguments, **named)

        marks.append(lambda dynamo: called.insert(0, dynamo.disable(function, recursive, **how)))
        return call

    def afterwards() -> None:
        load(*SIZES)
        dynamo = import_module(_DYNAMO)
        for mark in marks:
            mark(dynamo)

    early: dict[str, Any] = {name: marking(name) for name in ("allow_in_graph", "assume_constant_result")}
    early |= {"disable": disable, "graph_break": lambda *_, **__: None}
    early["eval_frame"] = SimpleNamespace(OptimizedModule=Proxy(f"{_DYNAMO}.eval_frame", "OptimizedModule"))
    lazily(*TORCH, early={_DYNAMO: early}, afterwards=afterwards)
