"""The judges that `evaluate.judges` names, made of what the pipeline keeps."""

import json

import pytest

from rlhf.data.contracts import JUDGMENT
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.data.table import write_table
from rlhf.settings import Settings, check_settings
from tasks.judging import load_judge


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gold", "data/gold/facts.parquet: no such file"),
        ("reward-model", "set prepare.judge_share above 0"),
        ("human", "data/human: holds no judgments"),
        ("llm", "needs evaluate.llm.url and evaluate.llm.model"),
    ],
)
def test_a_judge_that_lacks_something_says_what_in_one_line(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    write_table("data/people/judgments.parquet", JUDGMENT, [])
    write_json("models/judge/judge.json", {"kind": "none"})
    with pytest.raises(DataError, match=said):
        load_judge(name, Settings())


def test_the_llm_judge_gets_the_endpoint_and_limits_of_params(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_STATE", str(tmp_path))
    values = {"judges": ["llm"], "llm": {"url": "http://127.0.0.1:1/v1", "model": "m", "max_requests": 7}}
    judge = load_judge("llm", check_settings({"evaluate": values}, "test"))
    assert (judge.kind, judge.name) == ("model", "llm:m:prompt-1")
    assert (judge.endpoint.url, judge.max_requests, judge.cache) == (
        "http://127.0.0.1:1/v1",
        7,
        tmp_path / "llm-judge.jsonl",
    )


def test_people_judge_by_the_judgments_that_ingest_read(workspace):
    judged = {"prompt": "p", "reference": "r", "output": "o", "policy": "ppo", "preferred": "tie"}
    (workspace.path / "data/human/ann.jsonl").write_text(json.dumps(judged | {"judge_id": "ann"}) + "\n")
    assert workspace.stage("ingest")["rows/judgments"] == 1
    judge = load_judge("human", Settings())
    assert (judge.name, judge.kind) == ("human", "human")
    [row] = judge.judge([judged])
    assert (row["preferred"], row["judge_id"], row["judge_kind"]) == ("tie", "ann", "human")

    (workspace.path / "data/human/ben.csv").write_text("prompt,reference,output,policy\np,r,o,ppo\n")
    with pytest.raises(DataError, match=r"data/human/ben\.csv: row 1: column 'preferred' is missing"):
        workspace.stage("ingest")
    assert judge.rows == load_judge("human", Settings()).rows  # the table stays whole
