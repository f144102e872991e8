"""The reward model on rankings."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from small_base import COMPARISONS, DEMONSTRATIONS, PROMPTS, base, reward_settings

from rlhf.compute import deterministic
from rlhf.data.errors import DataError
from rlhf.data.rankings import pairs
from rlhf.models.batches import right_pad
from rlhf.models.logprobs import head_scores, hidden_states, sequence_scores
from rlhf.models.packing import pack
from rlhf.models.policy import save_model
from rlhf.models.reward_model import encode, load_reward, reward_from_policy, score, shift_to_references
from rlhf.models.template import as_row
from rlhf.training.reward import RankingTrainer, accuracy, contrasts, encoded_examples, train_reward


def test_pairs_of_a_ranking() -> None:
    assert pairs([1, 2, 2, 3]) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    assert pairs([2, 1]) == [(1, 0)]
    assert pairs([1, 1, 1]) == []


def test_the_ranking_loss_is_the_mean_over_prompts_of_the_mean_over_pairs(base: Path, tmp_path: Path) -> None:
    deterministic(0, 1)
    reward = reward_from_policy(base, 0)
    rows = COMPARISONS[:3]
    expected = []
    for row in rows:
        s = np.array(score(reward, [row] * 3, row["completions"]), dtype=np.float64)
        expected.append(np.mean([math.log1p(math.exp(-(s[a] - s[b]))) for a, b in pairs(row["ranking"])]))
    seen: list[float] = []
    original = RankingTrainer.compute_loss

    def spy(self, model, inputs, **kwargs):
        loss = original(self, model, inputs, **kwargs)
        seen.append(loss.item())
        return loss

    RankingTrainer.compute_loss = spy  # type: ignore[method-assign]
    try:
        train_reward(reward, rows, **reward_settings(tmp_path, epochs=1, batch_size=3))
    finally:
        RankingTrainer.compute_loss = original  # type: ignore[method-assign]
    assert seen == [pytest.approx(np.mean(expected), abs=1e-5)]


def test_the_reward_model_learns_the_ranking_and_references_score_zero(base: Path, tmp_path: Path) -> None:
    deterministic(0, 1)
    reward = reward_from_policy(base, 0)
    train_reward(reward, COMPARISONS, **reward_settings(tmp_path / "checkpoints"))
    report = accuracy(reward, COMPARISONS)
    assert report["expert"]["accuracy"] > 0.95
    assert report["all"]["pairs"] == sum(len(pairs(row["ranking"])) for row in COMPARISONS)

    shift_to_references(reward, DEMONSTRATIONS)
    save_model(reward, tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")  # the shift is kept with the weights
    scores = score(loaded, DEMONSTRATIONS, [d["completion"] for d in DEMONSTRATIONS])
    assert np.mean(scores) == pytest.approx(0, abs=1e-5)
    assert np.std(scores) > 1e-4


def test_the_score_is_read_at_the_last_real_token(base: Path) -> None:
    reward = reward_from_policy(base, 0)
    row = reward.tokenizer(PROMPTS[0] + " red.")["input_ids"]
    ids, lengths = right_pad([row], reward.tokenizer.pad_token_id)
    padded, padded_lengths = right_pad([row, row + row], reward.tokenizer.pad_token_id)
    with torch.no_grad():
        alone = sequence_scores(reward.model, ids, lengths)
        together = sequence_scores(reward.model, padded, padded_lengths)
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-5)
        hidden = reward.model.base_model(input_ids=ids).last_hidden_state[0, -1]
        torch.testing.assert_close(reward.model.score(hidden), alone, atol=1e-5, rtol=1e-5)


def test_packed_sequences_score_as_they_do_alone(base: Path) -> None:
    reward = reward_from_policy(base, 0)
    sets = [
        (PROMPTS[0], [" red.", " and and.", " red and."]),
        (PROMPTS[40] + " " + PROMPTS[3], [" blue.", " blue."]),  # another length, and a text twice
        ("", [" white.", " and."]),  # nothing in common
    ]
    rows = [encode(reward, [as_row(prompt)] * len(texts), texts) for prompt, texts in sets]
    packed = pack(rows, reward.tokenizer.pad_token_id)
    assert packed["input_ids"].numel() < sum(len(row) for example in rows for row in example) * 1.5
    with torch.no_grad():
        states = hidden_states(
            reward.model,
            packed["input_ids"],
            packed["ends"],
            attention_mask=packed["attention_mask"],
            position_ids=packed["position_ids"],
        )
        together = head_scores(reward.model, states).tolist()
    alone = [value for prompt, texts in sets for value in score(reward, [as_row(prompt)] * len(texts), texts)]
    assert together == pytest.approx(alone, abs=1e-4)
    assert len(set(np.round(together, 4))) == 6


def test_rankings_count_by_their_weight(base: Path, tmp_path: Path) -> None:
    """Rankings and as many reversed ones cancel out, unless the reversed ones weigh nothing."""
    reversed_rows = [{**row, "ranking": [4 - rank for rank in row["ranking"]]} for row in COMPARISONS]
    rows = [row for pair in zip(COMPARISONS, reversed_rows, strict=True) for row in pair]
    right = {}
    for name, weights in (("alike", None), ("weighted", [2.0, 0.0] * len(COMPARISONS))):
        deterministic(0, 1)
        reward = reward_from_policy(base, 0)
        train_reward(reward, rows, weights=weights, **reward_settings(tmp_path / name, epochs=2))
        right[name] = accuracy(reward, COMPARISONS)["all"]["accuracy"]
    assert right["weighted"] > 0.95
    assert right["alike"] < 0.9


def test_contrasts_put_each_reference_above_answers_to_other_prompts() -> None:
    references = [{"prompt": f"p{i}", "completion": f" c{i}"} for i in range(20)]
    rows = contrasts(references, 3, seed=1)
    assert [row["prompt"] for row in rows] == [f"p{i}" for i in range(20)]
    for i, row in enumerate(rows):
        assert row["completions"][0] == f" c{i}"
        assert len(set(row["completions"])) == len(row["completions"]) <= 4
        assert {better for better, _ in pairs(row["ranking"])} <= {0}
    assert sum(len(row["completions"]) for row in rows) > 60  # 80 but for what is drawn twice
    assert contrasts(references, 3, seed=1) == rows != contrasts(references, 3, seed=2)
    assert contrasts(references, 0, seed=1) == contrasts(references[:1], 3, seed=1) == []


def test_of_the_rankings_a_few_rows_are_in_memory_at_a_time(base: Path, monkeypatch) -> None:
    class Row(dict):
        __hash__, __eq__ = object.__hash__, object.__eq__

    monkeypatch.setattr("rlhf.training.reward.IN_HAND", 4)
    reward, alive, most = reward_from_policy(base, 0), weakref.WeakSet(), []

    def rows():
        for ranking in COMPARISONS:
            row = Row(ranking)
            alive.add(row)
            most.append(len(alive))
            yield row

    examples, lengths = encoded_examples(reward, rows(), None, [])
    assert len(examples) == len(lengths) == len(COMPARISONS) > 40
    assert max(most) <= 10
    for example, ranking, longest in zip(examples, COMPARISONS, lengths, strict=True):
        asked = [ranking] * len(ranking["completions"])
        assert example["sequences"] == encode(reward, asked, ranking["completions"])
        assert [tuple(pair) for pair in example["pairs"]] == pairs(ranking["ranking"])
        assert longest == max(map(len, example["sequences"]))
    assert examples.data.schema.field("sequences").type.value_type.value_type == "int32"


def test_ties_only_is_one_line(base: Path, tmp_path: Path) -> None:
    rows = [{**row, "ranking": [1, 1, 1]} for row in COMPARISONS]
    with pytest.raises(DataError, match="no comparison with a strict preference"):
        train_reward(reward_from_policy(base, 0), rows, **reward_settings(tmp_path))
