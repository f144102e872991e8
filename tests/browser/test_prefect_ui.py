"""The pipeline from the pages of Prefect, in headless Chromium: form, progress, cancel, once more, links.

It takes minutes and runs only where asked for: `make browser`. SCREENSHOTS=docs makes those of the README.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import CHROMIUM, Workspace, free_port
from playwright.sync_api import Locator, Page, TimeoutError, expect, sync_playwright

from flows import machine as runs
from flows.workspace import experiments
from rlhf.settings import load_settings

pytestmark = [
    pytest.mark.skipif("RLHF_BROWSER" not in os.environ, reason="takes minutes: make browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (looked on PATH and at $CHROMIUM)"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--no-zygote"]
SCREENSHOTS = os.environ.get("SCREENSHOTS") and Path(os.environ["SCREENSHOTS"]).resolve()
MINUTE = 60_000  # milliseconds
VALUES = {"base": "scratch", "scale": "0.3M", "ppo.kl_coef": "0.1"}
STEPS = 400  # of pretraining: half a minute on one core


@dataclass
class Site:
    """The services over a copy of the project with small parameters, and a page of the browser."""

    prefect: str
    page: Page

    def shoot(self, name: str, page: Page | None = None) -> None:
        """Take a screenshot where one is wanted, once the page has come to rest."""
        if SCREENSHOTS:
            time.sleep(2)
            (page or self.page).screenshot(path=SCREENSHOTS / f"prefect-{name}.png")

    def field(self, label: str) -> Locator:
        """What stands under a label of the form."""
        named = f'//label[normalize-space()="{label}"]/ancestor::*[contains(@class, "p-label__header")]'
        return self.page.locator(f'{named}/following-sibling::*[contains(@class, "p-label__body")]').first

    def fill(self, name: str, values: dict[str, str]) -> None:
        """Open the form of the pipeline and change these values."""
        self.page.goto(f"{self.prefect}/deployments")
        self.page.get_by_role("link", name="pipeline", exact=True).click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run", exact=True).click()
        self.field("Run Name").locator("input").fill(name)
        for label, value in values.items():
            control = self.field(label).locator("input, button").first
            if control.get_attribute("aria-selected"):  # one of the types that a section may be
                self.field(label).get_by_role("button", name=value, exact=True).click()
            elif control.get_attribute("type") == "button":  # opens the list of choices
                control.press("ArrowDown")
                self.page.get_by_text(value, exact=True).last.click()
            else:
                control.fill(value)

    def submit(self) -> str:
        """Send the form; returns what the server answers, empty where it takes the run."""
        with self.page.expect_response(re.compile("create_flow_run$")) as sent:
            self.page.get_by_role("button", name="Submit").click()
        return "" if sent.value.ok else sent.value.text()

    def open_run(self, name: str) -> None:
        """From the list of runs to the page of this one."""
        self.page.goto(f"{self.prefect}/runs")
        self.page.get_by_role("link", name=name, exact=True).first.click()
        expect(self.page.get_by_text("Task Runs", exact=True)).to_be_visible()

    def artifact(self, name: str) -> Locator:
        """The card of an artifact of the run whose page is open."""
        self.page.get_by_text("Artifacts", exact=True).last.click()
        return self.page.get_by_role("link").filter(has_text=name).first

    def progress(self, stage: str) -> str:
        """What the newest progress artifact of a stage says; its page stays open."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            self.page.goto(f"{self.prefect}/artifacts")
            card = self.page.get_by_role("link").filter(has_text=f"progress-{stage}").first
            with suppress(TimeoutError):  # a page that is open does not show new artifacts
                card.wait_for(timeout=10_000)
                card.click()
                text = self.page.get_by_text(f"{stage}: step").first.inner_text()
                self.page.locator("a[href*='/artifacts/artifact/']").first.click()
                return text
        pytest.fail(f"no progress of {stage} is shown after five minutes")

    def wait_until_completed(self, name: str) -> None:
        """In the list of runs: the page of a run draws its graph all the time, which takes a core."""
        self.page.goto(f"{self.prefect}/runs")
        row = self.page.locator(
            ".flow-run-list-item", has=self.page.get_by_role("link", name=name, exact=True)
        )
        expect(row.get_by_text("Completed", exact=True)).to_be_visible(timeout=15 * MINUTE)


@pytest.fixture(scope="module")
def site(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("pages") / "project"
    shutil.copytree(project, path)
    services = [sys.executable, "-m", "flows.services"]
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.chdir(path)
        patch.setenv("PYTHONPATH", str(path))
        patch.setenv("RLHF_STATE", str(path / ".state"))
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RLHF_PAGES"):
            patch.delenv(name, raising=False)
        Workspace(path).set({"base.steps": STEPS, "base.save_every": 20})
        ports = {name: {"port": free_port()} for name in ("prefect", "mlflow", "label", "pages")}
        Path("services.yaml").write_text(yaml.safe_dump(ports))
        for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "start"]):
            subprocess.run(["git", *arguments], check=True)
        try:
            subprocess.run([*services, "up"], check=True)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(MINUTE)
            expect.set_options(timeout=MINUTE)
            yield Site(f"http://127.0.0.1:{ports['prefect']['port']}", page)
            browser.close()
        finally:
            subprocess.run([*services, "down"], check=True)


def test_a_run_from_the_form_is_watched_cancelled_and_run_again(site: Site) -> None:
    page = site.page
    site.fill("first", VALUES | {"ppo.kl_coef": "-1"})
    assert "is less than the minimum" in site.submit()
    expect(page.get_by_text("-1 is less than the minimum").first).to_be_visible()
    site.shoot("refused")
    assert not list(Path(".runs").glob("*"))

    site.fill("first", VALUES)
    site.field("ppo.kl_coef").evaluate("field => field.scrollIntoView({block: 'center'})")
    site.shoot("form")
    assert site.submit() == ""
    shown: list[str] = []
    while len(set(shown)) < 2:  # how far it is, twice
        shown += re.findall(rf"base: step (\d+) of {STEPS}, loss [\d.]+", site.progress("base"))
    site.shoot("progress")

    site.open_run("first")
    [record] = runs.living()
    flow = psutil.Process(record.pid)
    family = [flow, *flow.children(recursive=True)]
    assert any("tasks.base" in process.cmdline() for process in family)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
    started = time.monotonic()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    print(f"cancelled: no process after {time.monotonic() - started:.1f} s")
    expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible()
    site.shoot("cancelled")

    site.fill("again", VALUES)
    assert site.submit() == ""
    site.wait_until_completed("again")
    site.open_run("again")
    assert "continuing from" in Path(".state/logs/worker.log").read_text()
    settings = load_settings(Path(".runs/again/params.yaml"))
    assert (settings.base.scale, settings.ppo.kl_coef) == ("0.3M", 0.1)
    assert set(experiments()) == {"again"}
    site.shoot("flow")
    site.artifact("verdict").click()
    expect(page.get_by_role("cell", name="PPO", exact=True)).to_be_visible()
    site.shoot("verdict")

    site.open_run("again")
    site.artifact("links").click()
    expect(page.get_by_text("dvc exp apply again")).to_be_visible()
    site.shoot("links")
    shown_by = {"again": "Run ID", "index": "Data Docs", "demonstrations": "Expectation Validation Result"}
    for link, shows in shown_by.items():
        with page.context.expect_page() as opened:
            page.get_by_role("link", name=link, exact=True).first.click()
        expect(opened.value.get_by_text(shows).first).to_be_visible()
        if link == "again":
            site.shoot("mlflow", opened.value)
        opened.value.close()
