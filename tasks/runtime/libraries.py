"""What libraries load at their import and a command of ours does not use: most of the start of a stage.

Each list says who imports it and what for. None of it is gone: what is used after all is loaded then (see
`lazily`), and models of any architecture, adapters and several processes work as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from tasks.runtime.lazily import Proxy, lazily, lazily_but

# torch.compile. transformers marks functions for it and takes one class from it, and an optimizer tells it at
# each step that no graph goes on: `load_lazily` says what stands for these few names.
_DYNAMO = "torch._dynamo"
MODULES = (
    # Tensors over several devices. transformers, accelerate and TRL ask whether a tensor is one.
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "transformers.distributed.expert_parallel",
    "transformers.distributed.tensor_parallel",
    # Adapters. transformers, TRL and our PPO ask whether a model has any.
    "peft",
    # The losses of models that find objects in images, among those of all tasks in transformers.
    "scipy.optimize",
    # Amazon SageMaker in accelerate, stores on S3 in Great Expectations.
    "boto3",
    # MLflow's judges of language models, and the gateway to these, which brings a web server.
    "mlflow.gateway",
    "mlflow.genai.evaluation",
    "mlflow.genai.judges",
    "mlflow.genai.labeling",
    "mlflow.genai.optimize",
    "mlflow.genai.prompts",
    "mlflow.genai.review_queues",
    "mlflow.genai.scorers",
    "mlflow.genai.simulators",
    # Alembic's templates would colour the source of an error in a page.
    "mako.ext.pygmentplugin",
    # The expectations about distributions of Great Expectations, and their charts. We have no such rule.
    "altair",
    "scipy.stats",
)


def load_lazily() -> None:
    """Let these modules wait until somebody uses them."""
    lazily(*MODULES)
    marks: list[Callable[[ModuleType], Any]] = []  # what the compiler is told when it is loaded

    def marking(name: str) -> Callable[[Any], Any]:
        def mark(function: Any) -> Any:
            marks.append(lambda dynamo: getattr(dynamo, name)(function))
            return function

        return mark

    def disable(function: Any = None, recursive: bool = True, **how: Any) -> Any:
        """A function that is not to be compiled: it is as it is as long as nobody compiles anything."""
        if function is None:
            return functools.partial(disable, recursive=recursive, **how)
        called = [function]

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return called[0](*arguments, **named)

        marks.append(lambda dynamo: called.insert(0, dynamo.disable(function, recursive, **how)))
        return call

    early: dict[str, Any] = {name: marking(name) for name in ("allow_in_graph", "assume_constant_result")}
    early |= {"disable": disable, "graph_break": lambda *_, **__: None}
    early["eval_frame"] = SimpleNamespace(OptimizedModule=Proxy(f"{_DYNAMO}.eval_frame", "OptimizedModule"))
    lazily_but(_DYNAMO, early, lambda dynamo: [mark(dynamo) for mark in marks])
