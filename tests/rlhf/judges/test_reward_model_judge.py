"""A reward model as judge of single texts."""

import pytest
from judged_posts import PROMPT, RIGHT, WRONG, preferred

from rlhf.data.errors import DataError
from rlhf.judges.reward_model import model_judge
from rlhf.models.template import as_row


def test_model_judge_prefers_the_higher_score_of_its_reward_model(tmp_path):
    import torch

    from rlhf.models.policy import Policy, save_model
    from rlhf.models.reward_model import load_reward, reward_from_policy, score
    from rlhf.models.scratch import new_model, train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer([PROMPT + RIGHT, PROMPT + WRONG], "word", 300)
    save_model(Policy(new_model("0.1M", tokenizer, 64), tokenizer), tmp_path / "policy")
    reward = reward_from_policy(tmp_path / "policy", seed=0)
    save_model(reward, tmp_path / "judge")
    judge = model_judge("reward-model", tmp_path / "judge", [])
    assert (judge.name, judge.kind) == ("reward-model", "model")
    right, wrong = score(load_reward(tmp_path / "judge"), [as_row(PROMPT)] * 2, [RIGHT, WRONG])
    assert right != wrong
    expected = "output" if right > wrong else "reference"
    assert preferred(judge, [PROMPT] * 2, [WRONG, RIGHT], [RIGHT, RIGHT]) == [expected, "tie"]
    with pytest.raises(DataError):
        model_judge("reward-model", tmp_path / "nothing", [])
