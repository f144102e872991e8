"""Which outputs a report shows."""

from rlhf.measures.samples import pick_samples


def test_samples_are_the_worst_median_and_best():
    rows = [{"id": str(i), "prompt": f"p{i}", "completion": f"r{i}"} for i in range(9)]
    margins = [5.0, -3.0, 0.0, 1.0, 9.0, -9.0, 2.0, -1.0, 0.5]
    outputs = {name: [f"{name}{i}" for i in range(9)] for name in ("pretrained", "sft", "ppo")}
    by_prompt = {f"p{i}": margin for i, margin in enumerate(margins)}
    picked = pick_samples(rows, outputs, dict.fromkeys(by_prompt, "tie"), by_prompt, each=1)
    assert [(s["place"], s["margin"]) for s in picked] == [("worst", -9.0), ("typical", 0.5), ("best", 9.0)]
    assert next(iter(picked[0]["outputs"].items())) == ("ppo", "ppo5")
    few = pick_samples(rows, outputs, {"p3": "tie"}, by_prompt, each=1)  # people judged one of the nine
    assert {sample["prompt"] for sample in few} == {"p3"}


def test_samples_of_conversations_keep_their_turns():
    talk = [{"role": "user", "content": "Hi"}]
    rows = [{"prompt": p, "messages": m, "completion": "c", "id": p} for p, m in (("Hi", talk), ("q", None))]
    margins = {"Hi": 1.0, "q": 0.0}
    picked = pick_samples(rows, {"ppo": ["a", "b"]}, dict.fromkeys(margins, "tie"), margins, each=1)
    assert {sample["prompt"]: sample.get("messages", "none") for sample in picked} == {
        "Hi": talk,
        "q": "none",
    }
