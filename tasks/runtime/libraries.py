"""What libraries load at their import and a command of ours does not use: most of the start of a stage.

Each list says who imports it and what for. None of it is gone: what is used after all is loaded then (see
`lazily`), and models of any architecture, adapters and several processes work as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from tasks.runtime.lazily import Proxy, lazily

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
MODULES = (*TORCH, *MLFLOW, *SCIPY, *OTHERS)


def load_lazily() -> None:
    """Let these modules wait until somebody uses them."""
    _torch()
    for names in (MLFLOW, SCIPY, *((name,) for name in OTHERS)):
        lazily(*names)


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
        dynamo = import_module(_DYNAMO)
        for mark in marks:
            mark(dynamo)

    early: dict[str, Any] = {name: marking(name) for name in ("allow_in_graph", "assume_constant_result")}
    early |= {"disable": disable, "graph_break": lambda *_, **__: None}
    early["eval_frame"] = SimpleNamespace(OptimizedModule=Proxy(f"{_DYNAMO}.eval_frame", "OptimizedModule"))
    lazily(*TORCH, early={_DYNAMO: early}, afterwards=afterwards)
