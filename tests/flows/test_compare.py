"""Comparing runs: the statistics, the page, and where the judgments of a run come from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from compared_runs import draw, make_run
from conftest import Workspace

from flows import compare
from flows.comparison_page import comparison_markdown, comparison_page
from rlhf.data.contracts import JUDGMENT
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.data.table import write_table
from rlhf.measures.comparison import Run, compare_runs, what_differs
from rlhf.settings import Settings
from tasks.graph import flat

HOSTILE = '</style></title><script>alert("x")</script><img src=x onerror=alert(1)>'


def test_the_best_run_is_named_and_whether_that_is_sure() -> None:
    good, level, bad = draw(0.7, 400, 1), draw(0.69, 400, 2), draw(0.4, 400, 3)
    runs = [make_run("bad", bad), make_run("good", good), make_run("level", level, {"ppo.kl_coef": 0.2})]
    result = compare_runs(runs)
    assert [run["name"] for run in result["runs"]][-1] == "bad"
    best, second = (run["name"] for run in result["runs"][:2])
    verdict = " ".join(result["verdict"])
    assert f"{best} has the highest rate" in verdict
    assert "surely better than bad (paired, adjusted for 3 comparisons)" in verdict
    assert f"cannot be told apart from {second}" in verdict
    [sure] = [pair for pair in result["pairs"] if (pair["first"], pair["second"]) == (best, "bad")]
    assert sure["low"] > 0.15
    assert sure["p_holm"] == pytest.approx(3 * sure["p_value"])


def test_ten_equal_runs_are_seldom_called_different() -> None:
    """Of six runs with one true rate some pair often has p < 0.05; adjusted, in one case of twenty."""
    called = plain = 0
    for trial in range(12):
        runs = [make_run(str(i), draw(0.5, 100, 100 * trial + i)) for i in range(6)]
        pairs = compare_runs(runs)["pairs"]
        assert len(pairs) == 15
        called += any(pair["sure"] for pair in pairs)
        plain += any(pair["p_value"] < 0.05 for pair in pairs)
    assert called <= 2
    assert plain >= 3


def test_only_what_differs_is_shown() -> None:
    runs = [
        make_run(name, draw(0.5, 50, 1), {"ppo.kl_coef": kl, "ppo.stop_tokens": []})
        for name, kl in (("a", 0.05), ("b", 0.05), ("c", 0.2))
    ]
    runs[0] = replace(runs[0], data={"data/prepared": "2" * 32})
    result = compare_runs(runs)
    assert [row["key"] for row in result["params"]] == ["ppo.kl_coef"]
    assert {run["name"]: run["differs"] for run in result["runs"]}["c"] == ["ppo.kl_coef=0.2"]
    assert what_differs("a", result["params"]) == []
    assert result["data"][0]["values"]["a"] == "2" * 32


def test_a_slice_that_moved_is_found_in_both_directions() -> None:
    base = ["output"] * 60 + ["reference"] * 60 + draw(0.5, 120, 5)
    other = ["reference"] * 60 + ["output"] * 60 + draw(0.5, 120, 5)
    topics = {f"prompt {i:04d}": "abc"[min(i // 60, 2)] for i in range(240)}
    runs = [make_run("base", base, topics=topics), make_run("other", other, topics=topics)]
    moved = compare_runs(runs)["slices"]
    best = compare_runs(runs)["runs"][0]["name"]
    slices = {(row["kind"], row["slice"]): row for row in moved}
    fell, rose = ("a", "b") if best == "base" else ("b", "a")
    assert slices["topic", fell]["difference"] == pytest.approx(-1)
    assert slices["topic", rose]["difference"] == pytest.approx(1)
    assert ("topic", "c") not in slices


def test_different_judges_are_not_compared() -> None:
    run = make_run("b", draw(0.9, 100, 2))
    other = replace(run, evaluation=run.evaluation | {"judge": {"name": "reward-model", "kind": "model"}})
    result = compare_runs([make_run("a", draw(0.2, 100, 1)), other])
    assert result["pairs"] == []
    assert "judged by different judges" in result["warnings"][0]
    assert "surely" not in " ".join(result["verdict"])


def test_one_policy_under_two_names_is_said_to_be_one() -> None:
    preferred = draw(0.5, 100, 1)
    result = compare_runs([make_run(name, preferred, weights="w") for name in ("a", "b")])
    assert result["warnings"] == ["The same policy: a, b."]
    assert result["pairs"][0]["same"]


def test_the_page_is_self_contained_and_escapes_what_models_wrote() -> None:
    runs = [make_run(name, draw(0.5, 40, seed)) for seed, name in enumerate(("a", HOSTILE))]
    rows = [{**row, "output": HOSTILE, "prompt": HOSTILE + row["prompt"]} for row in runs[0].judgments]
    mine = [{**row, "prompt": HOSTILE + row["prompt"]} for row in runs[1].judgments]
    result = compare_runs([replace(runs[0], judgments=rows), replace(runs[1], judgments=mine)])
    page = comparison_page(result)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("</style>") == 1
    assert not re.search(r"""(src|href)=|https?://""", re.sub("&#34;|&quot;", "", page).replace("src=x", ""))
    assert page.count('class="sample') == 40
    assert 'id="only-differ"' in page
    markdown = comparison_markdown(result)
    assert "<script" not in markdown
    assert "| pair | difference |" in markdown


def test_the_page_shows_conversations_turn_by_turn() -> None:
    talk = [{"role": "system", "content": HOSTILE}, {"role": "user", "content": "Hi"}]
    runs = [make_run(name, draw(0.5, 40, seed)) for seed, name in enumerate("ab")]
    runs = [
        replace(
            run, judgments=[{**row, "messages": talk if i else None} for i, row in enumerate(run.judgments)]
        )
        for run in runs
    ]
    page = comparison_page(compare_runs(runs))
    assert "<script" not in page
    assert page.count('<li class="turn system">') == page.count('<li class="turn user">') == 39
    assert page.count('<div class="text prompt"') == 1
    assert ".turn" not in comparison_page(compare_runs([make_run(name, draw(0.5, 9, 1)) for name in "ab"]))


def test_runs_come_from_their_worktrees(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    repository(workspace)
    for name, rate in (("kl-02", 0.7), ("kl-05", 0.4)):
        save(make_run(name, draw(rate, 200, 1)), Path(".runs", name))
    Path(".runs/failed").mkdir()
    compare.main(["kl-02", "kl-05"])
    printed = capsys.readouterr().out
    assert "kl-02 has the highest rate" in printed
    [page] = Path("reports/compare").glob("*.html")
    assert page.name == "kl-02-vs-kl-05.html"
    assert f"page:   {page}" in printed
    for names, says in {
        ("kl-02",): "name two or more runs",
        ("kl-02", "failed"): "failed: not judged: params.yaml is missing",
        ("kl-02", "nobody"): "nobody: no such run, experiment or version; there are failed, kl-02, kl-05",
        ("kl-02", "models:/rlhf-policy/9"): "models:/rlhf-policy/9: ",
    }.items():
        with pytest.raises(SystemExit) as ended:
            compare.main(list(names))
        assert ended.value.code == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {says}")


def test_an_experiment_is_read_at_its_commit(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from its worktree, which may be gone or at work on something else."""
    fetched = []

    def fetch(commit: str, path: str, target: Path) -> Path | None:
        fetched.append((commit, path))
        source = Path("saved", path)
        if not source.exists():
            return None
        target.write_bytes(source.read_bytes())
        return target

    save(make_run("kl-02", draw(0.7, 50, 1)), Path("saved"))
    monkeypatch.setattr(compare, "experiments", lambda: {"kl-02": "a" * 40})
    monkeypatch.setattr(compare, "fetch", fetch)
    assert compare.read_run("kl-02").evaluation["n"] == 50
    assert ("a" * 40, "data/judgments/judgments.parquet") in fetched
    Path("saved/data/judgments/judgments.parquet").unlink()
    with pytest.raises(DataError, match="is not in DVC's cache"):
        compare.read_run("kl-02")


def save(run: Run, folder: Path) -> None:
    """The files of a run, as its stages write them."""
    settings = Settings()
    assert flat(settings.model_dump(by_alias=True))["seed"] == run.params["seed"]
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings.model_dump(by_alias=True)))
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {}}))
    write_json(folder / "metrics/evaluation.json", run.evaluation)
    rows = [{**row, "judge_id": "gold", "judge_kind": "gold", "split": "test"} for row in run.judgments]
    rows = [{**row, "source": "test", "shown_order": [0, 1]} for row in rows]
    write_table(folder / "data/judgments/judgments.parquet", JUDGMENT, rows)


def repository(workspace: Workspace) -> None:
    import subprocess

    subprocess.run(["git", "init", "-q", "."], check=True, cwd=workspace.path)


def test_runs_sampled_at_different_temperatures_are_said_to_be() -> None:
    """A cooler policy may win by its sampling alone, and the comparison cannot tell."""
    preferred = draw(0.6, 50, 1)
    warm, cool = ({"evaluate.temperature": value} for value in (0.7, 0.5))
    settings = {"a": warm, "b": warm, "c": cool}
    result = compare_runs([make_run(name, preferred, params) for name, params in settings.items()])
    [warning] = [line for line in result["warnings"] if "sampled alike" in line]
    assert "0.7 in a, b; 0.5 in c" in warning
    alike = compare_runs([make_run("a", preferred, warm), make_run("b", preferred, warm)])
    assert not [line for line in alike["warnings"] if "sampled alike" in line]


def test_the_best_run_may_still_lose_to_the_reference() -> None:
    verdicts = {}
    for name, rate in {"lose": 0.3, "level": 0.5, "win": 0.8}.items():
        preferred = draw(rate, 300, 1)
        verdicts[name] = " ".join(
            compare_runs([make_run("a", preferred), make_run("b", preferred)])["verdict"]
        )
    assert "lies below one half" in verdicts["lose"]
    assert "includes one half" in verdicts["level"]
    assert "one half" not in verdicts["win"]


def test_a_judge_that_may_not_be_believed_decides_nothing_between_runs() -> None:
    """Before the rates: who reads no further shall not take them for a result."""
    runs = [make_run("a", draw(0.9, 100, 1)), make_run("b", draw(0.1, 100, 2))]
    trust = {"decides": False, "reason": "this judge cannot tell good from random"}
    doubted = [
        replace(
            run,
            evaluation=run.evaluation
            | {
                "judge": {"key": "reward-model", "name": "reward-model", "kind": "model"},
                "judges": {"reward-model": {"trust": trust}},
            },
        )
        for run in runs
    ]
    assert compare_runs(doubted)["verdict"][0].startswith("This decides nothing")
    assert compare_runs(runs)["verdict"][0].startswith("a has the highest rate")
