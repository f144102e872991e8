"""People as judges: what they said is looked up."""

import pytest
from judged_posts import pairs

from rlhf.data.errors import DataError
from rlhf.judges.people import HumanJudge

ROW = {"prompt": "p", "reference": "r", "output": "o", "policy": "ppo", "preferred": "output"}


def test_judgments_by_people_are_looked_up_by_text_and_policy():
    rows = [
        ROW | {"judge_id": "ann", "shown_order": [1, 0]},
        ROW | {"judge_id": "ben", "preferred": "tie", "shown_order": [0, 1]},
        ROW | {"judge_id": "ann", "policy": "sft", "preferred": "reference", "shown_order": [0, 1]},
    ]
    judge = HumanJudge(rows, "human")
    assert judge.judge(pairs(["p", "q"], ["r", "r"], ["o", "o"])) == rows[:2]
    with pytest.raises(DataError, match="human: none of its 3 judgments"):
        judge.judge(pairs(["p"], ["r"], ["another text"]))


def test_people_may_have_judged_a_text_without_the_blank_that_joins_it_to_its_prompt():
    asked = {"policy": "ppo", "prompt": "p", "reference": " r", "output": " o"}
    stored = {"policy": "ppo", "prompt": "p", "reference": "r", "output": "o"}
    assert HumanJudge([stored], "people").judge([asked]) == [stored]
    with pytest.raises(DataError, match="none of its 1 judgments"):
        HumanJudge([stored | {"output": "other"}], "people").judge([asked])
