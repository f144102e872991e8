"""The registry: one version for one result, the gate to @champion, and the same verdict in every place."""

# pytest finds fixtures by the names of arguments:
# ruff: noqa: F401, F811

import html
import json
from pathlib import Path

import pytest
from crafted import HEALTHY, evaluation
from registered import PROMPTS, empty_store, registry, rule_of, write_policy, write_result

from rlhf.data.contracts import JUDGMENT
from rlhf.data.files import write_json
from rlhf.report.markdown import plain
from tasks.register import write_report
from tasks.runtime.registry import standing


def test_same_result_is_one_version_and_the_gate_opens_once_the_rules_hold(registry):
    write_result(0.5)
    first = registry()
    assert (first["promoted"], first["version"], first["aliases"]) == (False, "1", {"challenger": 1})
    assert [rule["rule"] for rule in first["rules"] if not rule["held"]] == ["interval", "length"]
    assert registry() == first

    write_result(prompts=PROMPTS[:39])
    second = registry()
    assert (second["promoted"], second["version"]) == (False, "2")
    assert not rule_of(second, "prompts")["held"]

    write_result(0.95)
    third = registry()
    assert (third["promoted"], third["aliases"]) == (True, {"challenger": 3, "champion": 3})
    assert rule_of(registry(), "champion")["detail"] == "the champion, version 3, has the same weights"


def test_every_refusal_and_warning_is_in_the_description(registry):
    from mlflow import MlflowClient

    fall = {"found": True, "best": 6, "before": 6, "after": 12, "fall": 0.2, "rise": 1.0, "p_value": 1e-4}
    along = {"judge": {"name": "first", "kind": "gold"}, "n": 200, "looks": [{}, {}], "hacking": fall}
    write_result(0.5)
    registry()
    write_result(0.45, overoptimisation=along)
    gate = registry()
    assert (gate["promoted"], gate["aliases"]) == (False, {"challenger": 2})
    version = MlflowClient().get_model_version("rlhf-policy", "2")
    failed = [rule for rule in gate["rules"] if not rule["held"]]
    assert {rule["rule"] for rule in failed} == {"interval", "length", "hacking"}
    for rule in failed:
        assert f"- {plain(rule['rule'])} failed: {plain(rule['detail'])}" in version.description
        assert version.tags[f"gate.{rule['rule']}"] == f"failed: {rule['detail']}"
    assert gate["warnings"]
    for line in gate["warnings"]:
        assert f"- warning: {plain(line)}" in version.description


def test_evaluations_of_the_same_prompts_are_counted_whether_registered_or_not(registry):
    from mlflow import MlflowClient

    from rlhf.data.table import read_table
    from tasks.runtime.past_evaluations import record_evaluation

    first = registry()
    assert (first["look"], first["warnings"]) == (1, [])

    class Elsewhere:
        """A stage `evaluate` that was run alone, as with --until evaluate."""

        def log_tags(self, tags):
            client = MlflowClient()
            experiment = client.get_experiment_by_name("test").experiment_id
            client.set_terminated(client.create_run(experiment, tags=tags).info.run_id)

    rows = read_table("data/judgments/judgments.parquet", JUDGMENT)
    for place in range(3):
        seen = [row | {"preferred": "tie"} if k == place else row for k, row in enumerate(rows)]
        record_evaluation(Elsewhere(), seen)
        record_evaluation(Elsewhere(), seen)  # the same again
    other = [row | {"prompt": f"another question {k}"} for k, row in enumerate(rows)]
    record_evaluation(Elsewhere(), other)
    write_result(0.92, PROMPTS[:60])  # leaving prompts out does not start the count again
    fifth = registry()
    assert fifth["look"] == 5
    assert fifth["warnings"][0].startswith("These test prompts were evaluated 5 times")
    assert "evaluation 5 of these test prompts" in rule_of(fifth, "interval")["detail"]
    write_result()
    assert registry()["look"] == 1  # a result that comes back keeps its number


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: write_policy(2), "metrics/evaluation.json is not of the weights in models/ppo"),
        (
            lambda: write_json(
                "metrics/evaluation.json",
                json.loads(Path("metrics/evaluation.json").read_text()) | {"outcome": "0"},
            ),
            "metrics/evaluation.json is not of the judgments in data/judgments",
        ),
    ],
)
def test_an_evaluation_of_something_else_is_refused(registry, spoil, said):
    from mlflow import MlflowClient

    from tasks.runtime.errors import StageError

    spoil()
    with pytest.raises(StageError, match=said):
        registry()
    assert not MlflowClient().search_registered_models()


def test_the_verdict_is_the_same_in_every_place(registry, workspace, monkeypatch, capsys):
    """Terminal, Prefect, MLflow, registry, report and JSON: the same figures, to the last digit shown."""
    import mlflow
    from mlflow import MlflowClient

    from flows.tracking import log_verdict
    from flows.verdict import show_verdict, verdict_markdown
    from tasks import register
    from tasks.runtime.outcome import write_rate

    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(register, "write_report", write_report)
    along = {"judge": {"name": "first", "kind": "gold"}, "n": 200, "hacking": HEALTHY, "fit": None}
    snapshots = [
        {"update": k, "kl": 0.5 * k, "score": 0.1 * k, "rate": 0.5, "low": 0.4, "high": 0.6} for k in (0, 3)
    ]
    write_result(0.83, overoptimisation=along | {"looks": snapshots, "best_of_n": None})
    numbers = json.loads(Path("metrics/evaluation.json").read_text())
    for row in numbers["policies"].values():
        row |= {"kl": 0.0, "mean_length": 5.0}
    for judge in numbers["judges"].values():
        judge["trust"] = {"decides": True, "reason": "exact", "accuracy": None, "controls": []}
    for row in numbers["safety"].values():
        row |= {"n": 64, "mean_repetition": 0.0}
    numbers |= {"reference": {"mean_length": 5.0}, "held_out": None, "warnings": ["A warning."]}
    write_json("metrics/evaluation.json", numbers)
    write_json("data/judgments/page.json", {"stage_key": "key", "inputs": {}, "samples": []})
    write_json("metrics/reward.json", {"loss": 0.6, "by_group": {}})
    write_json("metrics/base.json", {"parameters": 1e5, "vocabulary": 300.0, "loss": 1.0})
    write_json("metrics/collect.json", {"all": {"rankings": 3}})
    write_json("metrics/prepare.json", {})
    Path("plots").mkdir()
    write_rate(numbers)
    gate = registry()
    write_json("runs/register.json", {"gate": {k: v for k, v in gate.items() if k != "aliases"}})
    experiment = MlflowClient().get_experiment_by_name("test").experiment_id
    run = MlflowClient().create_run(experiment).info.run_id
    log_verdict(run, Path())
    show_verdict(Path(), {})

    ppo = numbers["policies"]["ppo"]
    shown = f"{ppo['rate']:.3f}", f"{ppo['low']:.3f} to {ppo['high']:.3f}"
    report = Path("reports/report.html").read_text()
    version = MlflowClient().get_model_version("rlhf-policy", gate["version"])
    places = {
        "terminal": capsys.readouterr().out,
        "Prefect": verdict_markdown(Path()),
        "registry": version.description,
        "report": report,
    }
    for place, text in places.items():
        assert all(figure in text for figure in shown), place
        for rule in gate["rules"]:
            assert {rule["detail"] in html.unescape(text), plain(rule["detail"]) in text} != {False}, place
        for line in gate["warnings"]:
            assert line in html.unescape(text), (place, line)
    assert gate["warnings"] == ["A warning."]
    metrics = mlflow.get_run(run).data.metrics
    for figure in ("rate", "low", "high"):
        assert metrics[f"final/ppo/{figure}"] == float(version.tags[figure]) == ppo[figure]
        assert json.loads(Path("metrics/summary.json").read_text())[figure] == float(f"{ppo[figure]:.3f}")
    promoted = {metrics["final/promoted"] == 1, version.tags["promoted"] == "true", gate["promoted"]}
    assert promoted == {"@champion" in str(standing())} == {True}
