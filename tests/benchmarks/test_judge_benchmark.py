"""The benchmark of judges, small: useless ones are refused, and a good one is believed."""

from __future__ import annotations

import pytest
from conftest import Workspace

from benchmarks import judge_trust as benchmark
from rlhf.data.contracts import DEMONSTRATION
from rlhf.data.table import read_table
from rlhf.measures.judge_trust import asking, measure
from rlhf.measures.known_pairs import labelled_pairs
from rlhf.settings import load_settings
from rlhf.world.judges import gold_judge
from tasks.evaluate import held_out


@pytest.fixture
def trained(workspace: Workspace) -> Workspace:
    """An SFT policy that learnt next to nothing, and enough held-out prompts to measure a judge on."""
    workspace.set({"prepare.validation_share": 0.4, "evaluate.prompts": 40})
    for stage in ("ingest", "prepare", "base", "sft"):
        workspace.stage(stage)
    return workspace


def test_useless_judges_are_refused_and_the_true_preference_is_believed(trained: Workspace) -> None:
    settings, counts = load_settings(), [2, 8]
    texts = benchmark.candidates(settings, max(counts))
    rows = list(benchmark.judges_of_seed(settings, benchmark.cases(counts), texts))
    assert [row["judge"] for row in rows] == ["2", "8", "2, 8 references", "8 shuffled", "8 shuffled, alone"]
    assert not any(row["trust"]["decides"] for row in rows)
    for row in rows:
        assert row["trust"]["accuracy"]["n"] >= 40
        assert len(row["trust"]["controls"]) == 6
        assert set(row["policies"]) == {"random", "random, greedy", "sft"} == set(row["truth"]["gold"])
        assert row["truth"]["gold"]["random"]["high"] < 0.5

    posts = [r for r in read_table(benchmark.DEMONSTRATIONS, DEMONSTRATION) if r["split"] == "validation"]
    known = benchmark.ranked(posts, [texts[r["prompt"]] for r in posts], "validation", settings, seed=0)
    test = held_out(benchmark.DEMONSTRATIONS, 40)
    gold = gold_judge("gold", benchmark.FACTS)  # measured as if it were a model
    trust = measure(asking(gold, "test", 0), test, labelled_pairs(known, ("validation",)), seed=0)
    assert trust.decides, trust.reason
