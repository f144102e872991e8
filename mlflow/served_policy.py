"""The policy as MLflow serves it ("models from code"): prompts in, completions out.

MLflow copies this file beside the weights and runs it wherever the model is loaded, so it imports nothing
from this repository. The model's signature names no input, because MLflow would then drop the fields that it
does not know; unknown fields are refused here instead.
"""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from transformers import AutoModelForCausalLM, AutoTokenizer

PARAMS = ("temperature", "max_new_tokens", "seed")
EXPECTED = (
    'a list of prompts: {"inputs": ["...", "..."]}, {"prompt": "..."}, or a table with a column named prompt'
)


class ServedPolicy(mlflow.pyfunc.PythonModel):
    """Loads the artifact `policy`, a Hugging Face folder, and completes prompts."""

    def load_context(self, context: Any) -> None:
        """Load model and tokenizer: safetensors only, no code from the folder."""
        folder = context.artifacts["policy"]
        self.defaults = context.model_config
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32
        ).eval()

    @torch.no_grad()
    def predict(
        self,
        context: Any,
        model_input: pd.DataFrame,  # or anything that `prompts_of` takes; MLflow warns of other type hints
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Completions of prompts, in their order.

        Args:
            context: unused.
            model_input: a text, a list of texts, or a dict or frame whose `prompt` holds them.
            params: `temperature` (0 is greedy), `max_new_tokens` and `seed`; None is the default, which the
                policy was evaluated with.

        Raises:
            MlflowException: the input is something else; a server answers it with status 400.
        """
        prompts = prompts_of(model_input)
        chosen = self.defaults | {key: value for key, value in (params or {}).items() if value is not None}
        temperature, length = chosen["temperature"], chosen["max_new_tokens"]
        if temperature < 0 or length < 1:
            raise refused(f"temperature is {temperature} and max_new_tokens {length}; use at least 0 and 1")
        context_length = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        room = context_length - length
        if room < 1:
            raise refused(
                f"max_new_tokens={length} leaves no room for a prompt: the context is {context_length}"
            )
        how: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        completions: list[str] = []
        with torch.random.fork_rng():
            torch.manual_seed(chosen["seed"])
            for start in range(0, len(prompts), 64):
                # a special token that a prompt spells out is text, as in training
                rows = self.tokenizer(
                    prompts[start : start + 64], add_special_tokens=False, split_special_tokens=True
                )["input_ids"]
                batch = self.tokenizer.pad({"input_ids": [row[-room:] for row in rows]}, return_tensors="pt")
                out = self.model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=length,
                    eos_token_id=self.stop_ids(),
                    pad_token_id=self.tokenizer.pad_token_id,
                    repetition_penalty=1.0,  # as in training, whatever the base model came with
                    **how,
                )
                new = out[:, batch["input_ids"].shape[1] :].tolist()
                completions += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return completions

    def stop_ids(self) -> list[int]:
        """What ends a completion: EOS, and the tokens at which the policy was trained and judged to stop."""
        more = self.model.generation_config.eos_token_id
        more = more if isinstance(more, list) else [] if more is None else [more]
        return sorted({self.tokenizer.eos_token_id, *more})


def prompts_of(model_input: Any) -> list[str]:
    """The prompts in whatever MLflow hands over.

    Raises:
        MlflowException: there are none, or there is something besides them.
    """
    cells = model_input
    if isinstance(model_input, dict) or hasattr(model_input, "columns"):
        names = list(model_input)
        if "prompt" not in names and names != [0]:  # 0 names the column that MLflow makes of a list
            raise refused(f"the input has the fields {', '.join(map(str, names))} and no prompt")
        if isinstance(model_input, dict) and len(names) > 1:  # they would be options that change nothing
            others = ", ".join(str(name) for name in names if name != "prompt")
            raise refused(f"this model knows no {others}; its params are {', '.join(PARAMS)}")
        cells = model_input["prompt" if "prompt" in names else 0]
    if hasattr(cells, "tolist"):  # an array or a column
        cells = cells.tolist()
    cells = cells if isinstance(cells, list) else [cells]
    # MLflow makes one cell of a list in a dict
    prompts = [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
    if not prompts or not all(isinstance(text, str) and text for text in prompts):
        raise refused("a prompt is not a text, or empty")
    return prompts


def refused(why: str) -> MlflowException:
    """An error that a client is told with status 400."""
    return MlflowException(f"{why}; give {EXPECTED}", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(ServedPolicy())
