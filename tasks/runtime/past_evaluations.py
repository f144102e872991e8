"""The looks at a set of test prompts, counted by MLflow: every evaluation leaves one, registered or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.measures.alpha_spending import outcome, prompt_sketch, share_prompts
from tasks.runtime.stage import Stage

_PROMPTS, _OUTCOME = "look.prompts", "look.outcome"


def record_look(stage: Stage, judgments: Sequence[Mapping[str, Any]]) -> None:
    """Note on the stage's MLflow run at which prompts it looked and what it saw.

    Args:
        judgments: of PPO's outputs by the first judge.
    """
    prompts = prompt_sketch([row["prompt"] for row in judgments])
    stage.log_tags({_PROMPTS: " ".join(prompts), _OUTCOME: outcome(judgments)})


def number_of_look(stage: Stage, judgments: Sequence[Mapping[str, Any]]) -> int:
    """Which look at these prompts this one is, from 1, in the order in which they were first made.

    A result that comes back keeps its number, so that its verdict stays the same. Deleted runs count: what
    was seen stays seen. Another tracking store knows nothing of the looks of this one.
    """
    import mlflow
    from mlflow.entities import ViewType

    prompts, mine = prompt_sketch([row["prompt"] for row in judgments]), outcome(judgments)
    runs = mlflow.search_runs(
        experiment_ids=[mlflow.get_run(stage.run_id).info.experiment_id],
        filter_string=f"tags.`{_OUTCOME}` != ''",
        run_view_type=ViewType.ALL,
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    seen = [
        run.data.tags[_OUTCOME] for run in runs if share_prompts(run.data.tags[_PROMPTS].split(), prompts)
    ]
    return [*dict.fromkeys([*seen, mine])].index(mine) + 1
