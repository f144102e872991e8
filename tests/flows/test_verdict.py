"""The verdict in the terminal and in Prefect names judge, count and interval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flow_results import EVALUATION, GATE

from flows import verdict
from tasks.runtime import registry


def test_the_verdict_names_judge_count_and_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for folder in ("metrics", "runs"):
        Path(folder).mkdir()
    Path("metrics/evaluation.json").write_text(json.dumps(EVALUATION))
    Path("runs/register.json").write_text(json.dumps({"gate": GATE}))
    asked = []

    def standing(folder: Path) -> registry.Standing:
        asked.append(folder)
        return registry.Standing("rlhf-policy", "3", False, "5", "4", "")

    monkeypatch.setattr(verdict, "known_standing", standing)
    verdict.show_verdict(tmp_path, {"report": "reports/report.html"})
    out = capsys.readouterr().out
    ppo = next(line for line in out.splitlines() if line.strip().startswith("PPO"))
    assert ppo.split() == ["PPO", "0.660", "0.620", "to", "0.700", "500", "gold", "preference", "4.25"]
    assert "95\u00a0% interval" in out
    lines = [line.strip() for line in out.splitlines()]
    first = lines.index(
        "not promoted: rlhf-policy version 3; @challenger is version 5, @champion is version 4"
    )
    assert lines[first + 1 : first + 4] == [  # what speaks against it comes first
        "FAILED: not below the champion (0.66 < 0.70)",
        "warning: 980 of 1000 prompts are ties",
        "held: interval above 0.5 (0.62 > 0.5)",
    ]
    assert asked == [tmp_path]
    assert "reports/report.html" in out
    row = "| PPO | 0.660 | 0.620 to 0.700 | 500 | gold preference | 4.25 |"
    assert row in verdict.verdict_markdown(tmp_path)


def test_no_name_in_the_verdict_is_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge's name and the slices of a rule come from services and from rows."""
    monkeypatch.setattr(
        verdict, "known_standing", lambda folder: registry.Standing("rlhf-policy", "3", False, "3", "", "")
    )
    hostile = "<img src=x> | ![x](https://evil.example/p) [red]"
    judge = EVALUATION["judge"] | {"name": hostile}
    rules = [{"rule": "slices", "held": False, "detail": hostile}]
    for path, content in {
        "metrics/evaluation.json": EVALUATION | {"judge": judge},
        "runs/register.json": {"gate": GATE | {"rules": rules, "warnings": [hostile + "\n# Heading"]}},
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(json.dumps(content))
    shown = verdict.verdict_markdown(tmp_path)
    assert "<img" not in shown
    assert "![x](" not in shown
    assert "https://" not in shown
    assert "\n# Heading" not in shown
    monkeypatch.setenv("COLUMNS", "400")
    verdict.show_verdict(tmp_path, {})
    assert hostile in capsys.readouterr().out  # the terminal shows it as it is
