"""Train the reward model on rankings and shift it so that the references score 0.

    python -m tasks.reward

Reads data/prepared, data/comparisons, models/sft; writes models/reward, models/judge, metrics/reward.json,
plots/reward.csv. With `evaluate.judge: reward-model` a second model is trained on the prompts of split
`judge`, which neither this reward model nor PPO ever sees; otherwise models/judge only names the gold judge.
"""

from typing import Any

from rlhf.contracts import COMPARISON, DEMONSTRATION, DataError, read_table, write_json, written_beside
from rlhf.policy import save_model
from rlhf.reward import accuracy, reward_from_policy, score, shift_to_references, train_reward
from rlhf.training import deterministic, final_loss, write_curve
from tasks.context import Stage, run


def main(stage: Stage) -> dict[str, float]:
    comparisons = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    stage.log_dataset("data/comparisons/comparisons.parquet", comparisons, "reward")

    reward, curve = fit(stage, "train", comparisons, demonstrations)
    references = [row for row in demonstrations if row["split"] == "validation"]
    by_group = accuracy(reward, [row for row in comparisons if row["split"] == "validation"])
    scores = score(reward, [row["prompt"] for row in references], [row["completion"] for row in references])
    figures: dict[str, Any] = {
        "loss": final_loss(curve),
        "by_group": by_group,
        "reference_score_validation": sum(scores) / len(scores),
    }
    if stage.settings.evaluate.judge == "reward-model":
        judge, judge_curve = fit(stage, "judge", comparisons, demonstrations)
        figures["judge_loss"] = final_loss(judge_curve)
        figures["judge_by_group"] = accuracy(
            judge, [row for row in comparisons if row["split"] == "validation"]
        )
        with written_beside("models/judge") as folder:
            save_model(judge.model, judge.tokenizer, folder)
            write_json(folder / "judge.json", {"kind": "model", "name": "reward-model"})
    else:
        with written_beside("models/judge") as folder:
            folder.mkdir()
            write_json(folder / "judge.json", {"kind": "gold", "name": "gold"})

    save_model(reward.model, reward.tokenizer, "models/reward")
    write_curve("plots/reward.csv", curve)
    write_json("metrics/reward.json", figures)
    return {"loss": figures["loss"]} | {f"accuracy/{group}": of["accuracy"] for group, of in by_group.items()}


def fit(
    stage: Stage, split: str, comparisons: list[dict[str, Any]], demonstrations: list[dict[str, Any]]
) -> tuple[Any, list[dict[str, float]]]:
    """Train a reward model on one split's prompts and shift it by that split's references."""
    settings = stage.settings
    deterministic(settings.seed, settings.threads)
    rows = [row for row in comparisons if row["split"] == split]
    references = [row for row in demonstrations if row["split"] == split]
    if not rows or not references:
        hint = "; set prepare.judge_share above 0" if split == "judge" else ""
        raise DataError(f"split {split!r} has {len(rows)} comparisons and {len(references)} references{hint}")
    reward = reward_from_policy("models/sft", settings.seed)
    curve = train_reward(
        reward,
        rows,
        checkpoints=stage.checkpoints / split,
        seed=settings.seed,
        curve=stage.log_curve if split == "train" else None,
        **settings.reward.model_dump(),
    )
    shift_to_references(reward, references)
    return reward, curve


if __name__ == "__main__":
    run("reward", main)
