"""What tests of judges share: a post, a true and a false summary of it, and pairs to judge."""

from rlhf.judges.judge import blind_pairs

FACTS = {
    "who": "sister anna",
    "deed": "broke my laptop",
    "when": "last week",
    "where": "at school",
    "amount": "ten dollars",
    "feeling": "feel angry",
    "ask": "should i forgive",
}
PROMPT = "POST: my sister anna broke my laptop last week at school.\nTL;DR:"
RIGHT = " my sister anna broke my laptop. should i forgive?"
WRONG = " my sister anna broke my laptop. should i stay quiet?"


def pairs(prompts, references, outputs, policy="ppo", seed=1):
    return blind_pairs(
        policy,
        [{"prompt": p} for p in prompts],
        references,
        outputs,
        split="test",
        source="builtin",
        seed=seed,
    )


def preferred(judge, prompts, references, outputs):
    return [row["preferred"] for row in judge.judge(pairs(prompts, references, outputs))]
