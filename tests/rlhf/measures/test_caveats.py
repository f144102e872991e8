"""What stands before the figures: sentences where they say less than they seem to, and nothing otherwise."""

import pytest

from rlhf.measures.caveats import caveats

N = 200
REFERENCES = [f"reference {i}" for i in range(N)]
OUTPUTS = {name: [f"{name} {i}" for i in range(N)] for name in ("pretrained", "sft", "ppo")}
WEIGHTS = {name: name for name in OUTPUTS}


def evaluation(n: int = N, decides: bool = True) -> dict:
    trust = {"decides": decides, "reason": "this judge cannot tell good from random: 0.5 of 40 controls"}
    row = {"rate": 0.5, "low": 0.36, "high": 0.64}
    return {"n": n, "policies": {"ppo": row}, "judges": {"reward-model": {"trust": trust}}}


def test_nothing_is_said_where_all_is_well():
    assert caveats(evaluation(), OUTPUTS, REFERENCES, WEIGHTS) == []


@pytest.mark.parametrize(
    ("outputs", "weights", "sentence"),
    [
        ({"ppo": [f" {text}" for text in REFERENCES]}, {}, "PPO: all 200 outputs equal their references."),
        (
            {"ppo": REFERENCES[:120] + OUTPUTS["ppo"][120:]},
            {},
            "PPO: 120 of 200 outputs equal their references.",
        ),
        ({}, {"ppo": "sft"}, "The weights of PPO are those of SFT: PPO has changed nothing."),
        ({}, {"sft": "pretrained"}, "The weights of SFT are those of pretrained: SFT has changed nothing."),
        ({"ppo": OUTPUTS["sft"]}, {}, "Every output of PPO is the one of SFT, though their weights differ."),
        ({"ppo": ["my my my"] * N}, {}, "PPO: all 200 outputs are one and the same text."),
        ({"sft": [" "] * 150 + OUTPUTS["sft"][150:]}, {}, "SFT: 150 of 200 outputs are empty."),
    ],
)
def test_outputs_and_weights_that_say_less_than_their_rate(outputs, weights, sentence):
    [warning] = caveats(evaluation(), OUTPUTS | outputs, REFERENCES, WEIGHTS | weights)
    assert warning.startswith(sentence)


def test_few_prompts_and_a_judge_that_decides_nothing():
    few = {name: texts[:46] for name, texts in OUTPUTS.items()}
    judge, prompts = caveats(evaluation(46, decides=False), few, REFERENCES[:46], WEIGHTS)
    assert judge == (
        "The judge reward-model decides nothing: this judge cannot tell good from random: 0.5 of 40 controls."
    )
    assert prompts == "Only 46 prompts were judged: PPO's rate is known to about 0.14 in either direction."


def test_one_prompt_is_said_in_the_singular():
    few = {name: texts[:1] for name, texts in OUTPUTS.items()}
    *_, prompt = caveats(evaluation(1), few, REFERENCES[:1], WEIGHTS)
    assert prompt.startswith("Only 1 prompt was judged")
