"""The policy as MLflow serves it ("models from code"): prompts or conversations in, completions out.

MLflow copies this file beside the weights, with the rooms of `rlhf` that it needs (`code_paths`), and runs it
wherever the model is loaded: prompts are read and completions sampled by the code that did both when the
policy was judged. It imports nothing else of this repository. The model's signature names no input, because
MLflow would then drop the fields that it does not know; unknown fields are refused here instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from rlhf.data.conversations import check_messages
from rlhf.data.errors import DataError

if TYPE_CHECKING:
    from rlhf.models.template import Row

PARAMS = ("temperature", "max_new_tokens", "seed")
FIELDS = ("prompt", "messages")
EXPECTED = (
    'a list of prompts: {"inputs": ["...", "..."]}, {"prompt": "..."}, or a conversation: '
    '{"messages": [{"role": "user", "content": "..."}]}, or a table with a column of either name'
)


class ServedPolicy(mlflow.pyfunc.PythonModel):
    """Loads the artifact `policy`, a model folder, and completes prompts."""

    def load_context(self, context: Any) -> None:
        """Load the policy: safetensors only, no code from the folder."""
        from rlhf.models.policy import load_policy  # here, because MLflow runs this file to log it, too
        from rlhf.models.sampling import generate

        self.defaults, self.generate = context.model_config, generate
        self.policy = load_policy(context.artifacts["policy"])

    def predict(
        self,
        context: Any,
        model_input: pd.DataFrame,  # or anything that `rows_of` takes; MLflow warns of other type hints
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Completions of prompts and conversations, in their order.

        Args:
            context: unused.
            model_input: see `rows_of`.
            params: `temperature` (0 is greedy), `max_new_tokens` and `seed`; None is the default, which the
                policy was evaluated with.

        Raises:
            MlflowException: the input is something else; a server answers it with status 400.
        """
        rows = rows_of(model_input)
        chosen = self.defaults | {key: value for key, value in (params or {}).items() if value is not None}
        temperature, length = chosen["temperature"], chosen["max_new_tokens"]
        if temperature < 0 or length < 1:
            raise refused(f"temperature is {temperature} and max_new_tokens {length}; use at least 0 and 1")
        try:
            return self.generate(
                self.policy, rows, temperature=temperature, max_new_tokens=length, seed=chosen["seed"]
            )
        except DataError as error:  # what the template or the context refuses
            raise refused(str(error)) from None


def rows_of(model_input: Any) -> list[Row]:
    """The prompts and conversations in whatever MLflow hands over.

    Args:
        model_input: a text or texts; a conversation (a list of messages) or several; a dict or a frame with
            the fields `prompt` or `messages`. A frame may hold both, each row one of them.

    Raises:
        MlflowException: there are none, or there is something besides them.
    """
    if isinstance(model_input, Mapping) or hasattr(model_input, "columns"):
        names = list(model_input)
        known = [name for name in FIELDS if name in names]
        if names == [0]:  # the column that MLflow makes of a list
            return rows_of(model_input[0])
        if not known:
            raise refused(f"the input has the fields {', '.join(map(str, names))} and neither of these")
        if isinstance(model_input, Mapping):
            if len(known) > 1:
                raise refused("the input has both prompt and messages; send one of them")
            if len(names) > 1:  # they would be options that change nothing
                others = ", ".join(str(name) for name in names if name != known[0])
                raise refused(f"this model knows no {others}; its params are {', '.join(PARAMS)}")
            return rows_of(model_input[known[0]])
        columns = [_listed(model_input[name]) for name in known]
        return [_row(next(filter(_is_filled, cells), None)) for cells in zip(*columns, strict=True)]
    cells = _listed(model_input)
    if not isinstance(cells, list):
        cells = [cells]
    elif cells and all(isinstance(cell, Mapping) and "role" in cell for cell in cells):
        return [_row(cells)]
    # MLflow makes one cell of a list in a dict
    rows = [_row(part) for cell in map(_listed, cells) for part in (cell if _holds_texts(cell) else [cell])]
    if not rows:
        raise refused("the input holds no prompt")
    return rows


def _row(cell: Any) -> Row:
    """A cell as a row: a text, a conversation, or a dict that holds one of them."""
    from rlhf.models.template import as_row

    if isinstance(cell, Mapping) and list(cell) in (["prompt"], ["messages"]):
        cell = next(iter(cell.values()))
    cell = _listed(cell)
    if isinstance(cell, list):
        messages = [
            {key: _listed(value) for key, value in turn.items()} if isinstance(turn, Mapping) else turn
            for turn in cell
        ]
        try:
            check_messages(messages)
        except DataError as error:
            raise refused(str(error)) from None
        return as_row(messages)
    if not isinstance(cell, str) or not cell:
        raise refused("a prompt is not a text, or empty")
    return as_row(cell)


def _listed(value: Any) -> Any:
    """An array or a column as a list; everything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _holds_texts(cell: Any) -> bool:
    return isinstance(cell, list) and all(isinstance(part, str) for part in cell)


def _is_filled(cell: Any) -> bool:
    return isinstance(cell, (str, Sequence)) or hasattr(cell, "tolist")


def refused(why: str) -> MlflowException:
    """An error that a client is told with status 400."""
    return MlflowException(f"{why}; give {EXPECTED}", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(ServedPolicy())
