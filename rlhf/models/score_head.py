"""A head that gives a sequence one score, on the body of a language model."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from rlhf.data.errors import DataError


def with_score(model: Any, seed: int) -> Any:
    """A one-label model on the body of a language model, which both then share, with a new head in float32.

    Raises:
        DataError: transformers has no sequence classification for this architecture, or one on another body.
    """
    config = copy.deepcopy(model.config)
    refuse_no_classification(config)
    config.num_labels = 1
    with torch.device("meta"):  # its own body is never computed with
        reward = AutoModelForSequenceClassification.from_config(config)
    if not hasattr(reward, "score") or type(reward.base_model) is not type(model.base_model):
        raise DataError(f"{type(reward).__name__} is not a score on the body of {type(model).__name__}")
    setattr(reward, reward.base_model_prefix, model.base_model)
    width = reward.score.weight.shape[1]
    reward.score = torch.nn.utils.skip_init(  # which draws nothing from the global random state
        torch.nn.Linear, width, 1, bias=False, dtype=torch.float32, device=model.device
    )
    new_head(reward, seed)
    return reward


@torch.no_grad()
def new_head(model: Any, seed: int) -> None:
    """Give the head random weights, N(0, 1/(d+1)) for d hidden states (Stiennon et al. 2020)."""
    width = model.score.weight.shape[1]
    weight = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width + 1)
    model.score.weight.copy_(weight)


def refuse_no_classification(config: Any, where: str = "") -> None:
    """Refuse an architecture that has no one-label model.

    Raises:
        DataError: `where` and why.
    """
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise DataError(
            f"{where}transformers has no sequence classification for {config.model_type} models, and a "
            "reward model is one; take a base of another architecture"
        )
