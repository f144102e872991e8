"""The page of a comparison in headless Chromium: its filter works without a script, and it fits a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from compared_runs import draw, make_run
from conftest import CHROMIUM
from playwright.sync_api import sync_playwright

from flows.comparison_page import comparison_page
from rlhf.measures.comparison import compare_runs


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (looked on PATH and at $CHROMIUM)")
def test_the_filter_shows_who_won_and_the_page_fits_a_phone(tmp_path: Path) -> None:
    preferred = {"kl-02": draw(0.7, 60, 1), "kl-05": draw(0.4, 60, 2)}
    runs = [make_run(name, won, {"ppo.kl_coef": len(name)}) for name, won in preferred.items()]
    path = tmp_path / "page.html"
    path.write_text(comparison_page(compare_runs(runs)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 360, "height": 740}, java_script_enabled=False)
        page.goto(path.as_uri())
        shown = page.locator(".sample:visible")
        assert shown.count() == 60
        differ = sum(a != b for a, b in zip(*preferred.values(), strict=True))
        page.get_by_label("the runs' judgments differ").check()
        assert shown.count() == differ
        page.get_by_label("kl-02 won").check()
        assert shown.count() == preferred["kl-02"].count("output")
        page.get_by_label("kl-05 lost").check()
        assert shown.count() == preferred["kl-05"].count("reference")
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        violations = Axe().run(page).response["violations"]
        assert [violation["id"] for violation in violations] == []
        browser.close()
