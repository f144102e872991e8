"""The list of the runs: what each came to, nothing of another's, and no script, whatever a run wrote."""

from report_page import Page
from run_folders import HOSTILE

from flows.services.runs_page import runs_page


def text_of(page: str) -> str:
    """The page's text, cells apart."""
    return " ".join(Page(page.replace("<", " <")).text.split())


def test_every_run_is_listed_with_date_state_verdict_and_size(runs):
    text = text_of(runs_page(runs))
    names = ("busy", "gone", "broken", "early", "best")
    places = [text.index(f"{name} ") for name in names]
    assert places == sorted(places)  # the newest first
    rows = dict(
        zip(names, (text[a:b] for a, b in zip(places, [*places[1:], None], strict=True)), strict=True)
    )
    assert "2026-09-21 14:20 running 1 of 4 stages" in rows["busy"]
    assert "killed 1 of 4 stages" in rows["gone"]
    assert f"failed 1 of 4 stages; failed in sft; {HOSTILE}" in rows["broken"]
    assert "partial 1 of 4 stages" in rows["early"]
    assert "complete 0.322 (0.309 to 0.366) 1000 prompts, gold" in rows["best"]
    assert f"version 3 stays @challenger: {HOSTILE} failed" in rows["best"]
    assert f"seed=18 {HOSTILE}" in rows["best"]
    assert all("0.1M 5,686 demonstrations" in row for row in rows.values())
    for name in names[:-1]:  # nothing of the best run's on another's row
        assert "0.322" not in rows[name]
        assert "challenger" not in rows[name]


def test_the_page_runs_no_script_and_opens_each_report(runs):
    page = Page(runs_page(runs))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe", "form"})
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["best/reports/report.html"] * 2  # the name, and the list of pages
    assert all((runs / link).exists() for link in links)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_no_run_and_a_torn_file_are_no_error(runs, tmp_path):
    assert "There is no run yet" in runs_page(tmp_path / "nothing")
    (runs / "best/metrics/summary.json").write_text('{"rate": 0.3')
    (runs / "best/params.yaml").write_text("model: [")
    text = Page(runs_page(runs)).text
    assert "0.322" not in text
    assert "version 3 stays @challenger" in text
