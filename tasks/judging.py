"""The judges that `evaluate.judges` names, with the files where the pipeline keeps them."""

from __future__ import annotations

from pathlib import Path

from rlhf.data.contracts import JUDGMENT
from rlhf.data.errors import DataError
from rlhf.data.files import read_json
from rlhf.data.table import read_table
from rlhf.judges.judge import Judge
from rlhf.judges.people import HumanJudge
from rlhf.judges.reward_model import model_judge
from rlhf.settings import Settings
from rlhf.world.judges import gold_judge, simulated_judge

FACTS, MODEL, PEOPLE = "data/gold/facts.parquet", "models/judge", "data/people/judgments.parquet"
NO_JUDGMENTS = f"data/human: holds no judgments; put a file with {', '.join(JUDGMENT.required)} there"


def load_judge(name: str, settings: Settings, answers: Path | str) -> Judge:
    """The judge that `evaluate.judges` names, with the files where the pipeline keeps them.

    Args:
        name: one of `evaluate.judges`.
        settings: all parameters.
        answers: file of a language model's answers, kept for good; see `rlhf.judges.language_model`.

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
        return model_judge(name, MODEL)
    if name == "human":
        judgments = read_table(PEOPLE, JUDGMENT)
        if not judgments:
            raise DataError(NO_JUDGMENTS)
        return HumanJudge(judgments, name)
    from rlhf.judges.language_model import Endpoint, LlmJudge  # here, since it imports this module

    llm = settings.evaluate.llm
    if not llm.url or not llm.model:
        raise DataError("the judge llm needs evaluate.llm.url and evaluate.llm.model in params.yaml")
    endpoint = Endpoint(llm.url, llm.model, key_variable=llm.key_variable)
    return LlmJudge(endpoint, answers, max_requests=llm.max_requests, max_tokens=llm.max_tokens)
