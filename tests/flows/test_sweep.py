"""A sweep runs each of its cells once and draws the figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flow_repository import SMALL, write_graph
from flow_results import EVALUATION, git

from flows.workspace import experiments
from rlhf.data.files import write_json
from rlhf.settings import SettingsError


def test_a_sweep_runs_each_cell_once_and_draws_the_figure(
    small_repository: Path, services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.sweep import cells_of, sweep

    monkeypatch.setenv("RLHF_STATE", str(services))
    policies = {
        name: policy | {"wins": 300 + 10 * k, "ties": 0, "losses": 200 - 10 * k}
        for k, (name, policy) in enumerate(EVALUATION["policies"].items())
    }
    write_json("metrics/evaluation.json", EVALUATION | {"policies": policies, "confidence": 0.95})
    write_json("metrics/base.json", {"parameters": 123456})
    write_graph(SMALL | {"evaluate": {"deps": ["data/prepared"], "outs": ["reports/report.html"]}})
    git("add", ".")
    git("commit", "--quiet", "--message", "metrics")
    changes = {"ppo.kl_coef": 0.2}
    with pytest.raises(SettingsError, match="no such size"):
        cells_of(["7B"], [1], changes, None)

    state = sweep(sizes=["0.1M"], seeds=[1], changes=changes, return_state=True)
    assert state.is_completed(), state.message
    data = json.loads(Path("reports/sizes/preference-by-size.json").read_text())
    [row] = data["rows"]
    assert (row["size"], row["seeds"], row["policies"]["sft"]["rate"]) == ("0.1M", [1], 0.62)
    assert data["command"] == "python -m flows.sweep --sizes 0.1M --seeds 1 --set ppo.kl_coef=0.2"
    assert set(data["runs"]) <= set(experiments())
    for name, commit in data["runs"].items():
        assert git("show", f"{commit}:params.yaml").count(f"seed: {name.split('-')[3]}\n") == 1
    assert Path("reports/sizes/preference-by-size.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("reports/sizes/index.html").read_text()

    before = {name: commit for name, commit in experiments().items()}
    assert sweep(sizes=["0.1M"], seeds=[1], changes=changes, return_state=True).is_completed()
    assert experiments() == before  # nothing ran again
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text() + "# other code\n")
    assert {cell.name for cell in cells_of(["0.1M"], [1], changes, None)}.isdisjoint(before)
