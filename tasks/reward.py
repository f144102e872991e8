"""Train the reward model on rankings and shift it so that the references score 0.

    python -m tasks.reward

Learns from the votes of the source (thumbs up or down on single answers), too: see `rlhf.training.reward`.
Reads data/prepared, data/comparisons, models/sft; writes models/reward, models/judge, metrics/reward.json,
plots/reward.csv. If there are rankings in split `judge` (prepare.judge_share), a second model is trained on
them: the judge `reward-model`, in models/judge. Neither this reward model nor PPO's policy ever sees those
rankings. The judge also learns that an answer to another prompt is worse (reward.judge_contrast); otherwise
it would prefer what hacks the reward model as much as the reward model does. It is measured before it decides
anything (judge.json). With `reward.labeler_weights`, a ranking counts by what the overlap of the labelers
says about its labeler.

If SFT trained adapters (base.lora), both models begin as its adapters with a head, and are saved as adapters
on the same base.
"""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import os
from collections.abc import Sequence
from itertools import chain
from typing import Any

from labeling.quality.weights import labeler_weights
from rlhf.compute import deterministic
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, VOTE
from rlhf.data.conversations import PromptRows
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json, written_beside
from rlhf.data.table import Table, read_table
from rlhf.measures.calibration import reward_quality
from rlhf.measures.judge_trust import by_score, measure
from rlhf.measures.known_pairs import labelers_of, labelled_pairs
from rlhf.models.doctor import refuse_unsound
from rlhf.models.policy import save_model
from rlhf.models.reward_model import (
    RewardModel,
    load_reward,
    reward_from_policy,
    score,
    shift_to_references,
)
from rlhf.training.curves import final_loss, write_curve
from rlhf.training.reward import accuracy, completion_scores, contrasts, train_reward, vote_quality
from tasks.runtime.stage import Stage, launch, run

CURVE, TRAINED = "curve.json", "trained"  # beside the checkpoints: the curve, unrounded, and the model


def main(stage: Stage) -> dict[str, float | None]:
    comparisons, demonstrations, votes = tables()
    if comparisons:
        stage.log_dataset("data/comparisons/comparisons.parquet", comparisons, "reward")
    if votes:
        stage.log_dataset("data/prepared/votes.parquet", votes, "reward")
    for split in splits_of(comparisons, votes):
        refuse_empty(split, comparisons, demonstrations, votes)
    launch(stage, train_models, stage.settings.reward.accelerate)

    reward, curve = trained(stage, "train", demonstrations)
    weights = weights_of(stage, in_split(comparisons, "train"))
    references = list(in_split(demonstrations, "validation"))
    validation = list(in_split(comparisons, "validation"))
    by_group = accuracy(reward, validation)
    scores = score(reward, references, [row["completion"] for row in references])
    figures: dict[str, Any] = {
        "loss": final_loss(curve),
        "by_group": by_group,
        "reference_score_validation": sum(scores) / len(scores) if scores else None,
    }
    held_out = list(in_split(votes, "validation"))
    if held_out:
        figures["votes"] = vote_quality(reward, held_out)
    if validation:
        figures["quality"] = quality_of(reward, validation, comparisons)
    if weights:
        figures["labeler_weights"] = weights
        rows = [{"labeler_id": labeler, "weight": weight} for labeler, weight in weights.items()]
        stage.log_samples(rows, "labeler_weights")
    save_model(reward, "models/reward")
    with written_beside("models/judge") as folder:
        if "judge" in splits_of(comparisons, votes):
            judge, judge_curve = trained(stage, "judge", demonstrations)
            figures["judge_loss"] = final_loss(judge_curve)
            figures["judge_by_group"] = accuracy(judge, validation)
            trust = measure_judge(judge, references, validation, stage.settings.seed)
            figures["judge_trust"] = trust
            save_model(judge, folder)
            write_json(folder / "judge.json", {"kind": "model", "name": "reward-model", "trust": trust})
        else:
            folder.mkdir()
            write_json(folder / "judge.json", {"kind": "none"})

    write_curve("plots/reward.csv", curve)
    write_json("metrics/reward.json", figures)
    by_labeler_group = {
        f"weight/{group}": weight for group, weight in mean_weights(weights, comparisons).items()
    }
    accuracies = {f"accuracy/{group}": counts["accuracy"] for group, counts in by_group.items()}
    auc = {"votes/auc": figures["votes"]["auc"]} if held_out else {}
    return {"loss": figures["loss"]} | accuracies | by_labeler_group | auc


def tables() -> tuple[Table, Table, Table]:
    """The comparisons, the demonstrations, and the votes that came with the source."""
    return (
        read_table("data/comparisons/comparisons.parquet", COMPARISON),
        read_table("data/prepared/demonstrations.parquet", DEMONSTRATION),
        read_table("data/prepared/votes.parquet", VOTE),
    )


def in_split(rows: Sequence[dict[str, Any]], split: str) -> Sequence[dict[str, Any]]:
    """The rows of a split; of a table, one of its own, of which nothing is read yet."""
    return rows.where("split", split) if isinstance(rows, Table) else [r for r in rows if r["split"] == split]


def splits_of(comparisons: Table, votes: Table) -> list[str]:
    """The splits that a model is trained on each: `train`, and `judge` if there are labels in it."""
    return ["train", *(["judge"] if in_split(comparisons, "judge") or in_split(votes, "judge") else [])]


def refuse_empty(
    split: str,
    comparisons: Sequence[dict[str, Any]],
    demonstrations: Sequence[dict[str, Any]],
    votes: Sequence[dict[str, Any]],
) -> None:
    """Check that a split has something to train on.

    The judge learns from references, too, and PPO starts where the references score 0; a reward model that is
    all a run is for needs none.

    Raises:
        DataError: it has no comparisons and no votes, or no references where there are some elsewhere.
    """
    rows = len(in_split(comparisons, split)) + len(in_split(votes, split))
    references = len(in_split(demonstrations, split))
    needed = split == "judge" or len(demonstrations) > 0
    if not rows or (needed and not references):
        hint = "; set prepare.judge_share above 0" if split == "judge" else ""
        if not demonstrations:
            hint = "; bring demonstrations, or set prepare.judge_share to 0" if split == "judge" else ""
        raise DataError(f"split {split!r} has {rows} comparisons and votes and {references} references{hint}")


def train_models(stage: Stage) -> None:
    """Train in this process, one of `processes`; the first writes beside the checkpoints what came out."""
    comparisons, demonstrations, votes = tables()
    for split in splits_of(comparisons, votes):
        reward, curve = fit(stage, split, comparisons, demonstrations, votes)
        save_model(reward, stage.checkpoints / split / TRAINED)
        if int(os.environ.get("RANK", "0")) == 0:
            write_json(stage.checkpoints / split / CURVE, curve)


def trained(
    stage: Stage, split: str, demonstrations: Sequence[dict[str, Any]]
) -> tuple[RewardModel, list[dict[str, float]]]:
    """The model that was trained on a split, shifted by the references there, and its loss curve."""
    reward = load_reward(stage.checkpoints / split / TRAINED)
    references = in_split(demonstrations, split)
    if references:
        shift_to_references(reward, references)
    return reward, read_json(stage.checkpoints / split / CURVE)


def quality_of(
    reward: RewardModel,
    validation: Sequence[dict[str, Any]],
    comparisons: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Accuracy, calibration and length bias on validation rankings, and the bound that the agreement of the
    labelers sets."""
    scores = iter(completion_scores(reward, validation))
    return reward_quality(
        validation,
        [[next(scores) for _ in row["completions"]] for row in validation],
        comparisons,
    )


def measure_judge(
    judge: RewardModel, references: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]], seed: int
) -> dict[str, Any]:
    """Whether the judge may decide anything while PPO runs, measured on validation prompts: they trained
    nothing, and the test prompts stay unused until the evaluation."""
    rows = PromptRows([*references, *validation])
    trust = measure(
        by_score(lambda prompts, texts: score(judge, rows.of(prompts), texts)),
        list({row["prompt"]: row for row in references}.values()),
        labelled_pairs(validation, ("validation",)),
        seed=seed,
        labelers=labelers_of(validation),
    )
    print(f"judge reward-model: {trust.reason}")
    return trust.as_dict()


def fit(
    stage: Stage,
    split: str,
    comparisons: Sequence[dict[str, Any]],
    demonstrations: Sequence[dict[str, Any]],
    votes: Sequence[dict[str, Any]] = (),
) -> tuple[RewardModel, list[dict[str, float]]]:
    """Train a reward model on one split's prompts; returns it, not shifted yet, and its loss curve."""
    settings = stage.settings
    deterministic(settings.seed, settings.threads)
    refuse_empty(split, comparisons, demonstrations, votes)
    rows = in_split(comparisons, split)
    references = in_split(demonstrations, split)
    params = settings.reward
    weights = weights_of(stage, rows)
    counts = [weights[row["labeler_id"]] for row in rows] if weights else [1.0] * len(rows)
    contrast = contrasts(list(references), params.judge_contrast, settings.seed) if split == "judge" else []
    counts += [1.0] * len(contrast)
    reward = reward_from_policy("models/sft", settings.seed)
    if references:
        refuse_unsound(reward, references, "models/sft")
    curve = train_reward(
        reward,
        chain(rows, contrast),
        checkpoints=stage.checkpoints / split,
        seed=settings.seed,
        epochs=params.epochs,
        batch_size=params.batch_size,
        learning_rate=params.learning_rate,
        save_every=params.save_every,
        weights=counts,
        votes=in_split(votes, split),
        precision=params.precision,
        gradient_checkpointing=getattr(settings.base, "gradient_checkpointing", False),
        curve=stage.log_curve if split == "train" else None,
        progress=stage.progress,
    )
    return reward, curve


def weights_of(stage: Stage, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How much the rankings of each labeler count; empty if all count alike."""
    method = stage.settings.reward.labeler_weights
    return {} if method == "none" else labeler_weights(rows, method)


def mean_weights(weights: dict[str, float], comparisons: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean weight of the labelers of each group."""
    people = {(row["labeler_group"] or "unknown", row["labeler_id"]) for row in comparisons}
    of_group: dict[str, list[float]] = {}
    for group, labeler in sorted(people, key=str):
        if labeler in weights:
            of_group.setdefault(group, []).append(weights[labeler])
    return {group: sum(values) / len(values) for group, values in of_group.items()}


if __name__ == "__main__":
    run("reward", main, worker=train_models)
