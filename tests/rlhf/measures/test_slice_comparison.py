"""Two policies by slice: where one fell, and small slices together."""

from crafted import judged

from rlhf.measures.slice_comparison import compare_slices


def test_slices_name_where_the_policy_fell_and_merge_small_ones():
    prompts = ["p " * (1 + i % 7) + str(i) for i in range(100)]
    topic = {p: "bad" if i < 40 else "good" if i < 95 else f"rare-{i}" for i, p in enumerate(prompts)}
    writer = {p: f"terse-{i % 3}" if i % 2 else None for i, p in enumerate(prompts)}
    ppo = judged(["reference"] * 40 + ["output"] * 60, prompts)
    sft = judged(["output"] * 40 + ["tie"] * 60, prompts, policy="sft")
    result = compare_slices(ppo, sft, topic, writer, 0.95, least=5)
    by_topic = {entry["name"]: entry for entry in result["topic"]}
    assert set(by_topic) == {"bad", "good", "other"}
    assert (by_topic["bad"]["rate"], by_topic["bad"]["fell"], by_topic["good"]["fell"]) == (0.0, True, False)
    assert {entry["name"]: entry["n"] for entry in result["writer group"]} == {"none": 50, "terse": 50}
    assert len(result["prompt length"]) == 3
    assert compare_slices(ppo, [], topic, writer, 0.95) == {}
