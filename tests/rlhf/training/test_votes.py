"""Votes: the reward model learns from thumbs on single answers, alone and beside rankings."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_base import COMPARISONS, base

from rlhf.compute import deterministic
from rlhf.data.errors import DataError
from rlhf.data.rankings import pairs
from rlhf.models.reward_model import reward_from_policy, score
from rlhf.training.reward import RankingTrainer, accuracy, train_reward, vote_quality

SETTINGS: dict[str, Any] = {"seed": 0, "batch_size": 4, "learning_rate": 3e-3, "save_every": 1000}


def votes_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A thumb up on the best completion of each ranking, and one down on the worst."""
    return [
        {
            "prompt": row["prompt"],
            "messages": row.get("messages"),
            "completion": row["completions"][row["ranking"].index(rank)],
            "label": rank == 1,
        }
        for row in rows
        for rank in (1, max(row["ranking"]))
    ]


def test_the_loss_of_a_vote_is_the_cross_entropy_of_its_score(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a ranking, whose loss stays the mean over its pairs."""
    deterministic(0, 1)
    reward = reward_from_policy(base, 0)
    [row], votes = COMPARISONS[:1], votes_of(COMPARISONS[1:2])
    ranked = np.array(score(reward, [row] * 3, row["completions"]))
    up, down = score(reward, votes, [vote["completion"] for vote in votes])
    expected = [
        np.mean([math.log1p(math.exp(-(ranked[a] - ranked[b]))) for a, b in pairs(row["ranking"])]),
        -math.log(1 / (1 + math.exp(-up))),
        -math.log(1 - 1 / (1 + math.exp(-down))),
    ]
    seen: list[float] = []
    original = RankingTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, **kwargs: Any) -> Any:
        loss = original(self, model, inputs, **kwargs)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(RankingTrainer, "compute_loss", spy)
    train_reward(reward, [row], votes=votes, checkpoints=tmp_path, epochs=1, **(SETTINGS | {"batch_size": 3}))
    assert seen == [pytest.approx(np.mean(expected), abs=1e-5)]


def test_votes_alone_teach_the_ranking_that_they_come_from(base: Path, tmp_path: Path) -> None:
    deterministic(0, 1)
    reward = reward_from_policy(base, 0)
    votes = votes_of(COMPARISONS)
    before = vote_quality(reward, votes)
    train_reward(reward, [], votes=votes, checkpoints=tmp_path, epochs=4, **SETTINGS)
    after = vote_quality(reward, votes)
    assert after["votes"] == 2 * len(COMPARISONS)
    assert after["up"] == 0.5
    assert after["auc"] > 0.95 > before["auc"]
    assert accuracy(reward, COMPARISONS)["all"]["accuracy"] > 0.8  # rankings that it never saw


def test_votes_the_other_way_round_turn_the_scores_round(base: Path, tmp_path: Path) -> None:
    deterministic(0, 1)
    reward = reward_from_policy(base, 0)
    votes = votes_of(COMPARISONS)
    turned = [vote | {"label": not vote["label"]} for vote in votes]
    train_reward(reward, [], votes=turned, checkpoints=tmp_path, epochs=4, **SETTINGS)
    assert vote_quality(reward, votes)["auc"] < 0.05


def test_votes_that_all_agree_have_no_area(base: Path) -> None:
    reward = reward_from_policy(base, 0)
    thumbs_up = [vote for vote in votes_of(COMPARISONS) if vote["label"]]
    assert vote_quality(reward, thumbs_up)["auc"] is None


def test_neither_rankings_nor_votes_is_one_line(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no comparison with a strict preference, and no vote"):
        train_reward(reward_from_policy(base, 0), [], checkpoints=tmp_path, epochs=1, **SETTINGS)


def test_what_has_no_rank_gives_no_pair() -> None:
    assert pairs([2, None, 1]) == [(2, 0)]
    assert pairs([1, None]) == []
