"""The page of `dvc plots`: it draws the curves and loads nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import CHROMIUM, Workspace, dvc
from playwright.sync_api import sync_playwright


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (looked on PATH and at $CHROMIUM)")
def test_curves_are_drawn_without_the_internet(repository: Workspace) -> None:
    Path("plots").mkdir()
    Path("plots/sft.csv").write_text("step,loss\n10,3.0\n20,2.5\n30,\n40,2.0\n")
    Path("plots/ppo.csv").write_text("step,objective/scores\n1,0.5\n")
    Path("dvc.yaml").write_text(
        "plots:\n- plots/sft.csv: {x: step, y: loss}\n- plots/ppo.csv: {x: step, y: objective/scores}\n"
    )
    dvc("plots", "show")
    page = Path("dvc_plots/index.html")
    assert not re.search(r"""(src|href)\s*=\s*["']""", page.read_text())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        tab = browser.new_page()
        failures: list[str] = []
        tab.on("pageerror", lambda error: failures.append(str(error)))
        tab.goto(page.absolute().as_uri())
        curves = [line.get_attribute("points") or "" for line in tab.locator("polyline").all()]
        texts = tab.locator("text").all_text_contents()
        browser.close()
    assert failures == []
    assert sorted(len(curve.split()) for curve in curves) == [1, 3]
    assert {"plots/sft.csv", "plots/ppo.csv", "workspace: ends at 2"} <= set(texts)
