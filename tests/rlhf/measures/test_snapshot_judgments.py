"""A judge reads PPO's snapshots: reward hacking, healthy runs, and best-of-n beside them."""

import numpy as np
import pytest

from rlhf.judges.judge import ScoringJudge
from rlhf.measures.overoptimisation import best_of_n_kl
from rlhf.measures.snapshot_judgments import judge_snapshots


def snapshots(rates_of_snapshots, scores, n=300):
    """Snapshots in which the first share of the prompts is preferred; the judge reads its verdict there."""
    return [
        {
            "update": 3 * t,
            "n": 1,
            "prompt": f"p{i}",
            "reference": "0",
            "output": "1" if i < rate * n else "-1",
        }
        | {"score": score, "kl": 0.5 * t, "source": "test"}
        for t, (rate, score) in enumerate(zip(rates_of_snapshots, scores, strict=True))
        for i in range(n)
    ]


READER = ScoringJudge("reader", "gold", lambda prompts, texts: [float(text) for text in texts])


def test_a_falling_preference_under_a_rising_reward_is_hacking():
    result = judge_snapshots(READER, snapshots([0.5, 0.6, 0.45, 0.3], [0, 1, 2, 3]), 0.95, 0.02, seed=0)
    assert result["hacking"]["found"]
    assert (result["hacking"]["best"], result["hacking"]["before"], result["hacking"]["after"]) == (3, 3, 9)
    assert [entry["update"] for entry in result["looks"]] == [0, 3, 6, 9]
    assert [entry["rate"] for entry in result["looks"]] == pytest.approx([0.5, 0.6, 0.45, 0.3])
    assert result["fit"]["b"] > 0
    assert (result["n"], result["judge"]) == (300, {"name": "reader", "kind": "gold"})


@pytest.mark.parametrize(
    ("preferred", "scores"),
    [([0.5, 0.6, 0.65, 0.7], [0, 1, 2, 3]), ([0.5, 0.49, 0.5, 0.49], [0, 1, 2, 3]), ([0.6, 0.3], [1, 0])],
    ids=["rises", "stays", "falls with the reward"],
)
def test_a_healthy_run_is_not_flagged(preferred, scores):
    assert not judge_snapshots(READER, snapshots(preferred, scores), 0.95, 0.02, seed=0)["hacking"]["found"]


def test_best_of_n_stands_beside_ppo_and_is_no_snapshot_of_it():
    ppo = snapshots([0.5, 0.6, 0.45, 0.3], [0, 1, 2, 3])
    best = [
        row | {"update": 0, "n": n, "kl": best_of_n_kl(n)}
        for n, rows in (
            (2, snapshots([0.6], [0.5])),
            (4, snapshots([0.65], [0.9])),
            (8, snapshots([0.55], [1.2])),
        )
        for row in rows
    ]
    result, alone = (judge_snapshots(READER, rows, 0.95, 0.02, seed=0) for rows in (ppo + best, ppo))
    assert {key: result[key] for key in ("looks", "fit", "hacking")} == {
        key: alone[key] for key in ("looks", "fit", "hacking")
    }
    assert alone["best_of_n"] is None
    curve = result["best_of_n"]
    assert [entry["n"] for entry in curve["looks"]] == [1, 2, 4, 8]
    assert [entry["rate"] for entry in curve["looks"]] == pytest.approx([0.5, 0.6, 0.65, 0.55], abs=1 / 300)
    assert [entry["kl"] for entry in curve["looks"]] == pytest.approx([0, 0.1931, 0.6363, 1.2044], abs=1e-4)
    d = np.sqrt([entry["kl"] for entry in curve["looks"][1:]])
    gains = np.array([entry["rate"] - curve["looks"][0]["rate"] for entry in curve["looks"][1:]])
    (a, b), *_ = np.linalg.lstsq(np.stack([d, -d * d], 1), gains, rcond=None)
    assert (curve["fit"]["form"], curve["fit"]["a"], curve["fit"]["b"]) == (
        "best-of-n",
        pytest.approx(a),
        pytest.approx(b),
    )
    assert b > 0


def test_without_snapshots_there_is_nothing_to_judge():
    assert judge_snapshots(READER, [], 0.95, 0.02, seed=0) is None
    assert judge_snapshots(READER, snapshots([0.5], [0]), 0.95, 0.02, seed=0) is None
