"""The judging that `evaluate` and `register` share: judges by name, what each says, whether it decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.data.contracts import COMPARISON, JUDGMENT, PROMPT
from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.data.files import read_json
from rlhf.data.private import private_file
from rlhf.data.table import read_table
from rlhf.judges.judge import Explains, Judge, PairedJudge, Row, blind_pairs
from rlhf.judges.people import HumanJudge
from rlhf.judges.reward_model import model_judge
from rlhf.measures.judge_trust import Trust, asking, measure
from rlhf.measures.known_pairs import labelers_of, labelled_pairs, one_per_prompt
from rlhf.measures.trust_reasons import NO_MODEL
from rlhf.settings import Evaluate, Settings
from rlhf.world.judges import gold_judge, simulated_judge
from tasks.runtime.places import state_folder
from tasks.runtime.stage import Stage

FACTS, MODEL, PEOPLE = "data/gold/facts.parquet", "models/judge", "data/people/judgments.parquet"
COMPARISONS, PROMPTS = "data/comparisons/comparisons.parquet", "data/prepared/prompts.parquet"
NO_JUDGMENTS = f"data/human: holds no judgments; put a file with {', '.join(JUDGMENT.required)} there"
HELD_OUT = ("validation", "test")  # splits whose prompts train neither a reward model nor its judge


def load_judge(name: str, settings: Settings, rows: Sequence[Row] = ()) -> Judge:
    """The judge that `evaluate.judges` names, with the files where the pipeline keeps them.

    A language model's answers are kept for good in the state folder, so that nothing is asked twice.

    Args:
        name: one of `evaluate.judges`.
        settings: all parameters.
        rows: with conversations that the table of prompts may lack, such as the rankings.

    Raises:
        DataError: what the judge needs is not there.
    """
    if name == "gold":
        return gold_judge(name, FACTS)
    if name == "simulated":
        return simulated_judge(settings.collect.groups, FACTS, settings.seed)
    if name == "reward-model":
        if read_json(f"{MODEL}/judge.json").get("kind") != "model":
            raise DataError(
                f"{MODEL}: holds no judge, as no ranking is in split judge; set prepare.judge_share above 0"
            )
        return model_judge(name, MODEL, [*rows, *read_table(PROMPTS, PROMPT)])
    if name == "human":
        judgments = read_table(PEOPLE, JUDGMENT)
        if not judgments:
            raise DataError(NO_JUDGMENTS)
        return HumanJudge(judgments, name)
    from rlhf.judges.chat_completions import Endpoint  # here, because these load an HTTP client
    from rlhf.judges.language_model import LlmJudge

    llm = settings.evaluate.llm
    if not llm.url or not llm.model:
        raise DataError("the judge llm needs evaluate.llm.url and evaluate.llm.model in params.yaml")
    endpoint = Endpoint(
        llm.url,
        llm.model,
        key_variable=llm.key_variable,
        temperature=llm.temperature,
        reply_tokens=llm.reply_tokens,
    )
    answers = private_file(state_folder() / "llm-judge.jsonl")
    return LlmJudge(endpoint, answers, max_requests=llm.max_requests, max_tokens=llm.max_tokens)


def judge_all(judge: Judge, pairs: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Judgments by policy; one question to the judge, since people may have seen one policy only."""
    judgments = judge.judge([pair for asked in pairs.values() for pair in asked])
    return {policy: [row for row in judgments if row["policy"] == policy] for policy in pairs}


def trust_in(
    judge: Judge,
    rows: Sequence[Mapping[str, Any]],
    pairs: Mapping[str, list[Row]],
    settings: Evaluate,
    seed: int,
) -> Trust:
    """Whether a judge may decide anything; only a model is measured, on held-out prompts.

    Args:
        rows: the demonstrations of the test split that the policies are judged on.
        pairs: what the judge judged, by policy.
    """
    if judge.kind != "model":
        return Trust(True, NO_MODEL[judge.kind])
    rankings = read_table(COMPARISONS, COMPARISON)
    labelled = labelled_pairs(rankings, HELD_OUT)
    consistent = None
    if isinstance(judge, PairedJudge):  # each question costs money
        rows = rows[: settings.llm.control_prompts]
        labelled = one_per_prompt(labelled, settings.llm.control_pairs, seed)
        # the answers are in the judge's file, so asking again costs nothing
        asked = judge.in_both_orders([pair for asked_of in pairs.values() for pair in asked_of])
        consistent = [len(set(choices)) == 1 for choices in asked if None not in choices]
    trust = measure(
        asking(judge, str(rows[0]["source"]), seed, [*rankings, *rows]),
        rows,
        labelled,
        seed=seed,
        confidence=settings.confidence,
        labelers=labelers_of(rankings),
        consistent=consistent,
    )
    faults = judge.faults() if isinstance(judge, Explains) else ""
    return replace(trust, reason=f"{trust.reason}; {faults}") if faults else trust


def judge_policy(stage: Stage, folder: Path, rows: list[Row]) -> list[Row]:
    """What the gate's judge says of another policy, on the prompts and references of these judgments.

    Args:
        stage: the stage that asks; its settings say how the policy is sampled and who judges.
        folder: the policy's weights.
        rows: judgments of PPO's outputs.

    Returns:
        Judgments of this policy's outputs, as `ppo`, so that they compare with `rows`.

    Raises:
        DataError: the policy cannot read these prompts.
    """
    import torch

    from rlhf.models.policy import load_policy
    from rlhf.models.sampling import generate

    torch.set_num_threads(stage.settings.threads)
    settings = stage.settings.evaluate
    asked = list({row["prompt"]: row for row in rows}.values())
    policy = load_policy(folder)
    bare = any(row["messages"] and row["prompt"] == transcript(row["messages"]).strip() for row in asked)
    if bare and not policy.tokenizer.chat_template:
        raise DataError(
            "it has no chat template, so it would read conversations as texts without a cue for the answer; "
            "give the model of these prompts a name of its own (register.model_name)"
        )
    outputs = generate(
        policy,
        asked,
        temperature=settings.temperature,
        max_new_tokens=settings.response_length,
        seed=stage.settings.seed,
    )
    pairs = blind_pairs(
        "ppo",
        asked,
        [row["reference"] for row in asked],
        outputs,
        split="test",
        source="champion",
        seed=stage.settings.seed,
    )
    return load_judge(settings.gate_judge, stage.settings).judge(pairs)
