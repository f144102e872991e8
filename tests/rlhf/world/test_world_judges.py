"""The judges of the built-in task: its hidden preference, and simulated labelers."""

import json
import subprocess
import sys

import pytest
from judged_posts import FACTS, PROMPT, RIGHT, WRONG, pairs, preferred

from rlhf.data.contracts import GOLD, with_ids
from rlhf.data.errors import DataError
from rlhf.data.table import write_table
from rlhf.world.judges import gold_judge, simulated_judge


@pytest.fixture
def folders(tmp_path):
    rows = [{"prompt": PROMPT, "facts": json.dumps(FACTS)}]
    write_table(tmp_path / "facts.parquet", GOLD, with_ids(GOLD, rows, "test"))
    return "gold", tmp_path / "facts.parquet"


def test_gold_prefers_the_true_summary_and_calls_equal_scores_a_tie(folders):
    judge = gold_judge(*folders)
    assert (judge.name, judge.kind) == ("gold", "gold")
    reworded = " should i forgive? my sister anna broke my laptop."
    outputs = [RIGHT, WRONG, reworded, RIGHT + " "]
    references = [WRONG, RIGHT, RIGHT, RIGHT]
    assert preferred(judge, [PROMPT] * 4, references, outputs) == ["output", "reference", "tie", "tie"]
    assert judge.margins([PROMPT], [WRONG], [RIGHT]) == [pytest.approx(2.5)]  # 1 gained, 1.5 not lost


def test_gold_without_facts_is_one_line(folders, tmp_path):
    judge = gold_judge(*folders)
    with pytest.raises(DataError, match="no facts for the prompt 'other'"):
        preferred(judge, ["other"], [RIGHT], [WRONG])
    write_table(tmp_path / "none.parquet", GOLD, [])
    with pytest.raises(DataError, match=r"leave gold and simulated out of evaluate\.judges"):
        gold_judge("gold", tmp_path / "none.parquet")


def test_the_gold_judge_needs_no_model_code(folders):
    code = (
        "import sys; from rlhf.world.judges import gold_judge; gold_judge(sys.argv[1], sys.argv[2]); "
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, folders)], check=True)


@pytest.fixture
def posts(tmp_path):
    """Facts of 1,000 posts; the true summary of each, and one that gets a fact wrong."""
    rows = [{"prompt": f"{PROMPT} {i}", "facts": json.dumps(FACTS)} for i in range(1000)]
    write_table(tmp_path / "posts.parquet", GOLD, with_ids(GOLD, rows, "test"))
    return tmp_path / "posts.parquet", [row["prompt"] for row in rows]


def test_simulated_experts_mostly_see_what_is_right_and_spammers_the_position(posts):
    path, prompts = posts
    asked = pairs(prompts, [WRONG] * 1000, [RIGHT] * 1000)
    experts = simulated_judge({"expert": 1.0}, path, seed=1).judge(asked)
    assert sum(row["preferred"] == "output" for row in experts) > 950
    assert all(row["judge_kind"] == "simulated" for row in experts)
    assert len({row["judge_id"] for row in experts}) == 20
    assert simulated_judge({"expert": 1.0}, path, seed=1).judge(asked) == experts

    spam = simulated_judge({"spammer": 1.0}, path, seed=1).judge(asked)
    assert spam != simulated_judge({"spammer": 1.0}, path, seed=2).judge(asked)
    decided = [row for row in spam if row["preferred"] != "tie"]
    first = sum((row["preferred"] == "output") == (row["shown_order"][0] == 1) for row in decided)
    assert first > 0.65 * len(decided)
    # the order is random, so a liking for the first cancels out
    assert 0.44 < sum(row["preferred"] == "output" for row in decided) / len(decided) < 0.56
    again = simulated_judge({"spammer": 1.0}, path, seed=1).judge(
        pairs(prompts, [RIGHT] * 1000, [RIGHT] * 1000)
    )
    assert {row["preferred"] for row in again} == {"tie"}
    with pytest.raises(DataError, match="know the built-in task only"):
        simulated_judge({"expert": 1.0}, path, seed=1).judge(pairs(["other"], [WRONG], [RIGHT]))
