"""The judges that `evaluate.judges` names, and whether what one says is believed."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from chat_server import completion, make, responses

from rlhf.data.contracts import COMPARISON, JUDGMENT, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.data.table import write_table
from rlhf.judges.judge import blind_pairs
from rlhf.measures.judge_trust import asking
from rlhf.measures.known_pairs import KnownPair
from rlhf.models.policy import Policy, save_model
from rlhf.models.scratch import new_model, train_tokenizer
from rlhf.settings import Evaluate, Llm, Settings, check_settings
from tasks.judging import judge_policy, load_judge, trust_in


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


def test_a_champion_that_knows_no_turns_is_not_judged_on_conversations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = train_tokenizer(["one two three"], "word", 300)
    save_model(Policy(new_model("0.1M", tokenizer, 64), tokenizer), "plain")
    talk = {"prompt": "one", "messages": [{"role": "user", "content": "one"}], "reference": "two"}
    stage = SimpleNamespace(settings=Settings())
    with pytest.raises(DataError, match=r"no chat template.*register\.model_name"):
        judge_policy(stage, Path("plain"), [talk])
    with pytest.raises(
        DataError, match=r"facts\.parquet: no such file"
    ):  # it is asked; its judge is not there
        judge_policy(stage, Path("plain"), [talk | {"prompt": "one\nAnswer:"}])


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


def answer_to(prompt):
    return f"for {prompt}: take the lid off, wait for some minutes, clean it and put it back"


@pytest.fixture
def held_out(tmp_path, monkeypatch):
    """Demonstrations of 20 held-out prompts, and rankings of ten others by people."""
    monkeypatch.chdir(tmp_path)
    ranking = {"ranking": [1, 2], "split": "validation", "labeler_id": "ann"}
    ranking["policies"] = ["reference", "sft"]
    rankings = [
        {"prompt": f"ranked {i}", "completions": [answer_to(f"ranked {i}"), "no idea"]} | ranking
        for i in range(10)
    ]
    path = "data/comparisons/comparisons.parquet"
    write_table(path, COMPARISON, with_ids(COMPARISON, rankings, "feedback"))
    prompts = [f"test {i}" for i in range(20)]
    return [{"prompt": p, "completion": answer_to(p), "source": "files"} for p in prompts]


def trust(judge, rows, outputs, **limits):
    prompts, references = ([row[key] for row in rows] for key in ("prompt", "completion"))
    asked = blind_pairs(
        "ppo", [{"prompt": p} for p in prompts], references, outputs, split="test", source="files", seed=0
    )
    judge.judge(asked)
    return trust_in(judge, rows, {"ppo": asked}, Evaluate(llm=Llm(**limits)), seed=0)


def test_a_judge_that_names_what_it_sees_first_is_not_believed(server, tmp_path, held_out):
    server.behave = lambda request, attempt: (200, {}, completion("Clear enough.\nVerdict: A"))
    measured = trust(make(server, tmp_path), held_out[:10], ["some output"] * 10)
    assert not measured.decides
    assert measured.reason == (
        "this judge cannot tell good from random: 10 of 10 pairs contradict themselves when turned round"
    )
    consistent = {check.name: (check.rate, check.n) for check in measured.controls if "orders" in check.name}
    assert consistent == {"both orders": (0.0, 10), "both orders, outputs": (0.0, 10)}


def test_a_judge_that_knows_the_references_is_believed_and_asked_no_more_than_the_settings_allow(
    server, tmp_path, held_out
):
    def prefer_references(request, attempt):
        prompt = re.search(r"\[prompt \w+\]\n(.*)\n", request["messages"][1]["content"])[1]
        a, b = (text == answer_to(prompt) for text in responses(request))
        return 200, {}, completion(f"Verdict: {'A' if a > b else 'B' if b > a else 'tie'}")

    server.behave = prefer_references
    judge, outputs = make(server, tmp_path), ["some output"] * 20
    measured = trust(judge, held_out, outputs, control_prompts=14)
    assert measured.decides, measured.reason
    assert measured.reason.endswith("passed 8 controls")
    assert (measured.specificity, measured.sensitivity) == ([1.0] * 10, [])
    assert {check.n for check in measured.controls} == {14, 20}
    assert len(server.requests) == 2 * (20 + 5 * 14 + 10)  # in earnest, controls, people's pairs
    again = make(server, tmp_path)
    assert trust(again, held_out, outputs, control_prompts=14) == measured
    assert again.usage.requests == 0
    limited = make(server, tmp_path / "elsewhere", {"max_requests": 60})
    with pytest.raises(DataError, match="limit of 60 requests"):
        trust(limited, held_out, outputs)


def test_a_judge_is_put_to_the_test_on_conversations_in_turns(server, tmp_path, held_out):
    server.behave = lambda request, attempt: (200, {}, completion("Verdict: tie"))
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rows = [held_out[0] | {"messages": talk}, held_out[1]]
    asking(make(server, tmp_path), "files", 0, rows)(
        "control", [KnownPair(row["prompt"], row["completion"], "no idea") for row in rows]
    )
    asked = [request["messages"][1]["content"] for request in server.requests]
    assert sum("[turn 1, System" in text and "Be brief." in text for text in asked) == 2
    assert sum("[prompt " in text and "test 1" in text and "[turn" not in text for text in asked) == 2


def test_a_judge_whose_replies_cannot_be_read_is_not_believed(server, tmp_path, held_out):
    server.behave = lambda request, attempt: (200, {}, completion("I cannot compare these."))
    measured = trust(make(server, tmp_path), held_out[:10], ["some output"] * 10)
    assert not measured.decides
    assert "10 of 10 replies could not be read" in measured.reason
    assert measured.reason.endswith("replies could not be read, such as 'I cannot compare these.'")
