"""The report and the list of the runs in headless Chromium: accessible, and no wider than a phone."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import CHROMIUM
from playwright.sync_api import sync_playwright
from report_page import CHAT, render

from flows.services.runs_page import runs_page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (looked on PATH and at $CHROMIUM)")
@pytest.mark.parametrize("name", ["report", "chat", "runs"])
def test_axe_finds_nothing_and_the_page_fits_a_phone(tmp_path, runs, name):
    path = tmp_path / f"{name}.html"
    chat = CHAT if name == "chat" else None
    path.write_text(runs_page(runs) if name == "runs" else render(messages=chat))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        for scheme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
            page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
            page.goto(path.as_uri())
            page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
            violations = Axe().run(page, options=options).response["violations"]
            assert [violation["id"] for violation in violations] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            for talk in page.locator(".talk").all():  # it begins at the turn that is answered
                inside = "box => box.getBoundingClientRect().bottom"
                assert talk.locator(".turn").last.evaluate(inside) <= talk.evaluate(inside) + 1
        browser.close()
