"""The stage `evaluate`: what it counts, warns of and writes, that it repeats, and the page made of it."""

import json

import pytest
from conftest import Quiet
from report_page import GATE

from rlhf.data.contracts import COMPARISON, DEMONSTRATION, GOLD, JUDGMENT, SNAPSHOT, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.data.table import read_table, write_table
from rlhf.settings import load_settings
from tasks.evaluate import held_out
from tasks.register import write_report


@pytest.fixture
def evaluated(workspace, monkeypatch):
    """The stage with stand-in policies: PPO writes the reference, SFT noise, pretrained every fact."""
    import rlhf.models.logprobs
    import rlhf.models.policy
    import rlhf.models.sampling

    workspace.stage("ingest")
    workspace.stage("prepare")
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    written = {row["prompt"]: row["completion"] for row in demonstrations}
    facts = {row["prompt"]: json.loads(row["facts"]) for row in read_table("data/gold/facts.parquet", GOLD)}
    write = {
        "models/ppo": lambda prompt: written[prompt],
        "models/sft": lambda prompt: " zzz" * 100,
        "models/pretrained": lambda prompt: " my " + " ".join(facts[prompt].values()) + ".",
    }
    monkeypatch.setattr(rlhf.models.policy, "load_policy", lambda path: path)
    monkeypatch.setattr(
        rlhf.models.sampling, "generate", lambda path, rows, **_: [write[path](row["prompt"]) for row in rows]
    )
    monkeypatch.setattr(rlhf.models.logprobs, "mean_kl", lambda *_, **__: 1.25)
    write_json("models/judge/judge.json", {"kind": "none"})
    for name in ("pretrained", "sft", "ppo"):
        write_json(f"models/{name}/config.json", {})
        (workspace.path / f"models/{name}/model.safetensors").write_text(name)
    write_json("metrics/reward.json", {"loss": 0.5})
    write_json("metrics/base.json", {"parameters": 1e5, "vocabulary": 300.0, "loss": 1.0})
    validation = [row for row in demonstrations if row["split"] == "validation"][:6]
    snapshots = [
        {"update": update, "n": 1, "prompt": row["prompt"], "reference": row["completion"]}
        | {"output": output(row), "score": float(update), "kl": update / 2}
        for update, output in ((0, lambda row: row["completion"]), (3, lambda row: " zzz" * 100))
        for row in validation
    ]
    write_table("data/snapshots/snapshots.parquet", SNAPSHOT, with_ids(SNAPSHOT, snapshots, "builtin"))
    write_table("data/comparisons/comparisons.parquet", COMPARISON, [])
    write_json("data/snapshots/held-out.json", None)
    write_json("metrics/collect.json", {"all": {"rankings": 3}})
    (workspace.path / "plots").mkdir()
    figures = workspace.stage("evaluate")
    return workspace, figures, demonstrations


def test_evaluation_counts_and_writes_what_it_should(evaluated):
    _, figures, demonstrations = evaluated
    evaluation = read_json("metrics/evaluation.json")
    test_prompts = {row["prompt"] for row in demonstrations if row["split"] == "test"}
    assert evaluation["judge"] == {
        "key": "gold",
        "name": "gold",
        "kind": "gold",
        "tie_rule": "a tie counts one half",
    }
    assert evaluation["n"] == 20
    ppo, sft, pretrained = (evaluation["policies"][name] for name in ("ppo", "sft", "pretrained"))
    assert (ppo["rate"], ppo["ties"], ppo["kl"]) == (0.5, 20, 1.25)
    assert (sft["rate"], sft["mean_length"], sft["kl"]) == (0.0, 100.0, 0.0)
    assert pretrained["losses"] == 0 < pretrained["wins"]
    assert pretrained["coverage"] == pretrained["accuracy"] == 1.0
    assert ppo["mean_length"] == evaluation["reference"]["mean_length"]
    assert evaluation["comparisons"]["ppo_vs_sft"]["difference"] == 0.5
    assert figures["ppo/rate"] == 0.5

    assert list(evaluation["judges"]) == ["gold", "simulated"]
    simulated = evaluation["judges"]["simulated"]
    assert (simulated["kind"], simulated["policies"]["ppo"]["ties"]) == ("simulated", 20)
    assert simulated["agreement"]["gold"]["n"] == 60
    assert evaluation["policies"]["sft"]["length_controlled"]["longer"] == 1.0
    assert evaluation["safety"]["sft"]["repetitive"]["share"] == 1.0
    assert evaluation["safety"]["reference"]["repetitive"]["share"] < 0.1
    noise, copied, few = evaluation["warnings"]
    assert copied.startswith("PPO: all 20 outputs equal their references.")
    assert noise == "SFT: all 20 outputs are one and the same text."
    assert few.startswith("Only 20 prompts were judged")
    along = evaluation["overoptimisation"]
    assert (along["n"], [snapshot["rate"] for snapshot in along["looks"]]) == (6, [0.5, 0.0])
    assert sum(row["n"] for row in evaluation["slices"].get("topic", [{"n": 20}])) == 20

    others = read_table("data/judgments/judgments-simulated.parquet", JUDGMENT)
    assert (len(others), {row["judge_kind"] for row in others}) == (60, {"simulated"})
    judgments = read_table("data/judgments/judgments.parquet", JUDGMENT)
    assert len(judgments) == 60
    assert {row["prompt"] for row in judgments} < test_prompts
    assert {row["policy"] for row in judgments} == {"pretrained", "sft", "ppo"}


def test_evaluation_and_page_repeat_their_bytes(evaluated, monkeypatch):
    workspace, _, _ = evaluated
    monkeypatch.setattr("tasks.register.total_cost", lambda: {"seconds": 60.0, "memory_mb": 900.0})
    outputs = ("data/judgments/judgments.parquet", "data/judgments/page.json", "metrics/evaluation.json")
    outputs += ("reports/report.html", "reports/figures/preferred-to-reference.svg")
    show(workspace)
    before = [(workspace.path / path).read_bytes() for path in outputs]
    workspace.stage("evaluate")
    show(workspace)
    assert [(workspace.path / path).read_bytes() for path in outputs] == before
    assert not any(str(workspace.path).encode() in content for content in before)
    assert b"no difference is shown" in before[3]


def show(workspace) -> None:
    """Write the report as the stage `register` does, after its decision."""
    write_report(Quiet("register", load_settings(), key="test", run_id="test"), GATE | {"champion": None})


def test_evaluation_refuses_another_judge_or_no_test_prompts(evaluated, tmp_path):
    workspace, _, demonstrations = evaluated
    workspace.set({"evaluate.judges": ["gold", "reward-model"]})
    with pytest.raises(DataError, match=r"models/judge: holds no judge.* set prepare\.judge_share"):
        workspace.stage("evaluate")
    ppo = next(
        row for row in read_table("data/judgments/judgments.parquet", JUDGMENT) if row["policy"] == "ppo"
    )
    other = ppo | {"output": "another text", "judge_kind": "human"}
    write_table("data/people/judgments.parquet", JUDGMENT, [other])
    workspace.set({"evaluate.judges": ["human"]})
    with pytest.raises(DataError, match="human: none of its 1 judgments is about these policies and texts"):
        workspace.stage("evaluate")
    rows = [row for row in demonstrations if row["split"] != "test"]
    write_table(tmp_path / "none.parquet", DEMONSTRATION, rows)
    with pytest.raises(Exception, match=r"set prepare\.test_share"):
        held_out(str(tmp_path / "none.parquet"), 10)


def test_where_people_wrote_several_references_they_are_judged_beside_the_policies(evaluated) -> None:
    workspace, _, demonstrations = evaluated
    assert "human" not in read_json("metrics/evaluation.json")
    assert "rouge" not in read_json("metrics/evaluation.json")
    test = [row for row in demonstrations if row["split"] == "test"]
    # For every prompt another person wrote noise, which the gold preference does not prefer.
    again = [row | {"completion": f" qqq xxx {number}", "id": None} for number, row in enumerate(test)]
    rows = with_ids(DEMONSTRATION, [*demonstrations, *again], "x")
    write_table("data/prepared/demonstrations.parquet", DEMONSTRATION, rows)
    workspace.set({"evaluate.rouge": True})
    figures = workspace.stage("evaluate")
    evaluation = read_json("metrics/evaluation.json")
    human = evaluation["human"]
    assert human == evaluation["judges"]["gold"]["human"]
    assert (human["n"], human["ties"], human["wins"] + human["losses"]) == (20, 0, 20)
    assert figures["human/rate"] == human["rate"]
    assert evaluation["n"] == 20  # a prompt with two references is judged once
    scores = evaluation["rouge"]
    assert scores["n"] == 20
    assert scores["human"]["n"] == 20
    assert figures["ppo/rougeL"] == scores["policies"]["ppo"]["rougeL"]["mean"] == 1
    assert scores["policies"]["sft"]["rouge1"]["mean"] == 0
    assert scores["comparisons"]["sft_vs_pretrained"]["rouge1"]["high"] < 0
    show(workspace)
    page = (workspace.path / "reports/report.html").read_text()
    assert "another reference" in page
    assert "ROUGE-L" in page
    assert "The same beside a person, n = 20" in page
