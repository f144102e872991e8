"""Evaluations of the same test prompts, counted by MLflow: each leaves its prompts and outcome on its run.

Whether a policy was registered does not matter: whoever has seen the outcome could choose by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.measures.alpha_spending import outcome, prompt_sketch, share_prompts
from tasks.runtime.stage import Stage

_PROMPTS, _OUTCOME = "look.prompts", "look.outcome"  # MLflow's tags


def record_evaluation(stage: Stage, judgments: Sequence[Mapping[str, Any]]) -> None:
    """Note on the stage's MLflow run which prompts were judged, and with which outcome.

    Args:
        stage: the stage that judged, or reads the judgments.
        judgments: of PPO's outputs, by the judge that the gate reads.
    """
    prompts = prompt_sketch([row["prompt"] for row in judgments])
    stage.log_tags({_PROMPTS: " ".join(prompts), _OUTCOME: outcome(judgments)})


def number_of_evaluation(stage: Stage, judgments: Sequence[Mapping[str, Any]]) -> int:
    """Which evaluation of these prompts this one is, from 1, in the order in which they were first made.

    A result that comes back keeps its number, so that its verdict stays the same. Deleted runs count: what
    was seen stays seen. Another tracking store knows nothing of the evaluations in this one.
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
