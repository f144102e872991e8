"""The verdict on an evaluation as a sentence, and who it says judged."""

from report_page import evaluation

from rlhf.measures.summary import judge_label, verdict


def test_verdict_names_where_the_interval_lies():
    assert "lies above one half" in verdict(evaluation(0.51, 0.7))
    assert "no difference is shown" in verdict(evaluation(0.5, 0.7))
    assert "lies below one half" in verdict(evaluation(0.3, 0.49))


def test_a_judge_that_cannot_tell_good_from_random_is_said_before_its_rate():
    trust = {"decides": False, "reason": "this judge cannot tell good from random"}
    judged = evaluation() | {"judges": {"rm": {"trust": trust}}}
    judged["judge"] = judged["judge"] | {"key": "rm"}
    sentence = verdict(judged)
    assert sentence.startswith(
        "This decides nothing: this judge cannot tell good from random. By this judge PPO is"
    )
    assert "above one half" not in sentence


def test_a_judge_is_called_what_it_is_and_a_model_or_a_simulation_never_people():
    assert judge_label({"name": "gold", "kind": "gold"}) == "gold preference"
    assert judge_label({"name": "reward-model", "kind": "model"}) == "reward-model (model judge)"
    assert judge_label({"name": "panel", "kind": "simulated"}) == "panel (simulated labelers)"
