"""The policy as MLflow serves it ("models from code"): a list of prompts in, a list of completions out.

MLflow copies this file beside the weights and runs it wherever the model is loaded, so it imports nothing of
this repository.
"""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class ServedPolicy(mlflow.pyfunc.PythonModel):
    """Loads the artifact `policy`, a Hugging Face folder, and completes prompts."""

    def load_context(self, context: Any) -> None:
        """Load model and tokenizer: safetensors only, no code from the folder."""
        folder = context.artifacts["policy"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32
        ).eval()

    @torch.no_grad()
    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """Completions of the prompts in the first column, in their order.

        Args:
            context: unused.
            model_input: MLflow makes it of a list of texts, a dict of one column, or a frame.
            params: `temperature` (0 is greedy), `max_new_tokens` and `seed`; the signature has the defaults.
        """
        params = params or {}
        cells = model_input.iloc[:, 0].tolist()
        # MLflow makes one cell of the list in {"prompt": [...]}
        prompts = [text for cell in cells for text in ([cell] if isinstance(cell, str) else cell)]
        temperature, length = params.get("temperature", 0.0), params.get("max_new_tokens", 48)
        chosen: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            chosen = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        room = self.model.config.max_position_embeddings - length
        if room < 1:
            raise ValueError(
                f"max_new_tokens={length} leaves no room for a prompt: the context is {room + length}"
            )
        completions: list[str] = []
        with torch.random.fork_rng():
            torch.manual_seed(params.get("seed", 0))
            for start in range(0, len(prompts), 64):
                rows = self.tokenizer(prompts[start : start + 64], add_special_tokens=False)["input_ids"]
                batch = self.tokenizer.pad({"input_ids": [row[-room:] for row in rows]}, return_tensors="pt")
                out = self.model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=length,
                    eos_token_id=self.tokenizer.eos_token_id,
                    pad_token_id=self.tokenizer.pad_token_id,
                    **chosen,
                )
                new = out[:, batch["input_ids"].shape[1] :]
                completions += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return completions


mlflow.models.set_model(ServedPolicy())
