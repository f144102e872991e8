"""The app in headless Chromium: keys only, a race, hostile texts, cross-site posts, accessibility."""

from __future__ import annotations

import http.server
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from label_app import PASSWORD, candidates, filled, person
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from labeling import people
from labeling.candidates import Candidate
from labeling.items import Filling, add_items
from labeling.labels import is_current
from labeling.people import User
from labeling.projects import add_guideline, add_project
from labeling.queues import queue_row
from labeling.schema import KINDS, flags, items, labels, leases, sessions
from labeling.store import Store
from labeling.web.app import create_app
from labeling.web.labeling import open_queues
from labeling.web.security import COOKIE

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (looked on PATH and at $CHROMIUM)")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--no-zygote"]
ITEMS = 20
KEYS = {"compare": "2", "vote": "y", "judge": "3", "edit": "Enter", "rank": "Enter"}


class Model:
    """A served model that repeats the prompt."""

    version = "m/1"
    chat = False

    def __call__(self, prompt: str, n: int) -> list[str]:
        return [f"{prompt} {i}" for i in range(n)]


@dataclass
class Site:
    """A running app, its store and a browser."""

    url: str
    store: Store
    browser: Browser

    def page(self, user: User, **options: object) -> Page:
        """A page of a new browser profile in which a user is signed in."""
        context = self.browser.new_context(**options)  # type: ignore[arg-type]
        sign_in(self, context, user)
        page = context.new_page()
        page.set_default_timeout(60_000)
        return page


def sign_in(site: Site, context: BrowserContext, user: User) -> None:
    with site.store.write() as tx:
        token = people.open_session(tx, user.id)
    context.add_cookies([{"name": COOKIE, "value": token, "url": site.url}])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('browser') / 'labels.db'}")
    with store.write() as tx:
        add_project(tx, "p", "test")
    server = uvicorn.Server(uvicorn.Config(create_app(store, Model()), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield Site(f"http://127.0.0.1:{port}", store, browser)
        browser.close()
    server.should_exit = True
    thread.join(10)
    store.close()


def pressed(page: Page, *keys: str) -> None:
    """Press keys and wait until the next item, or the end, is there."""
    before = page.locator("#answer [name=key]").first.input_value()
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function(
        "before => document.readyState === 'complete'"
        " && document.querySelector('#answer [name=key]')?.value !== before",
        arg=before,
    )


def count(site: Site, user: User, queue: int) -> int:
    with site.store.read() as tx:
        own = sa.select(sa.func.count()).where(labels.c.user_id == user.id, labels.c.queue_id == queue)
        return tx.scalar(own.where(is_current())) or 0


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_items_by_keys_alone(kind: str, site: Site) -> None:
    user = person(site.store, f"keys-{kind}")
    outputs = 3 if kind == "rank" else 2 if kind == "compare" else 1
    queue = filled(site.store, kind, candidates(ITEMS, outputs), name=f"keys {kind}")
    page = site.page(user)
    page.goto(site.url)
    page.keyboard.press(str(1 + [r.id for r in _open(site, user)].index(queue)))
    page.wait_for_url(f"**/work/{queue}")
    for number in range(ITEMS):
        keys = [KEYS[kind]]
        if kind == "rank":
            keys = (
                ["2", "1", "2", "Enter"] if number else ["ArrowDown", "1", "ArrowUp", "ArrowUp", "2", "Enter"]
            )
        if kind == "edit" and number % 2:
            page.keyboard.press("e")
            page.keyboard.press("Control+End")
            page.keyboard.type(" better")
            keys = ["Control+Enter"]
        pressed(page, *keys)
    expect(page.get_by_text("Nothing is left for you")).to_be_visible()
    assert count(site, user, queue) == ITEMS
    if kind == "rank":
        with site.store.read() as tx:
            rows = tx.execute(sa.select(labels).where(labels.c.queue_id == queue).order_by(labels.c.id)).all()
        shown = [[row.answer["ranking"][k] for k in row.shown_order] for row in rows]
        assert shown[0] == [2, 1, None]
        assert shown[1] == [2, 1, 2]
    page.keyboard.press("u")  # undo: the last item is back
    page.wait_for_selector("#answer")
    assert count(site, user, queue) == ITEMS - 1
    pressed(page, *(["1", "2", "Enter"] if kind == "rank" else [KEYS[kind]]))
    assert count(site, user, queue) == ITEMS
    page.context.close()


def _open(site: Site, user: User) -> list[sa.Row]:
    with site.store.read() as tx:
        return open_queues(tx, user)


def test_skip_flag_and_remark_by_keys(site: Site) -> None:
    user, queue = person(site.store, "skipper"), filled(site.store, "vote", candidates(3, 1), name="skips")
    page = site.page(user)
    page.goto(f"{site.url}/work/{queue}")
    page.keyboard.press("f")
    page.keyboard.type("odd text")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    pressed(page, "s", "Enter")  # the first reason has the focus
    page.keyboard.press("m")
    page.keyboard.type("y n")  # in a text field these are letters
    page.keyboard.press("Escape")
    pressed(page, "n")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    page.reload()  # the page is the response to a form; this does not send it again
    assert "GET" in sent
    assert "POST" not in sent
    with site.store.read() as tx:
        rows = tx.execute(sa.select(labels).where(labels.c.user_id == user.id).order_by(labels.c.id)).all()
        assert [(row.status, row.note) for row in rows] == [("skipped", "I cannot tell"), ("given", "y n")]
        assert tx.scalar(sa.select(flags.c.note).where(flags.c.user_id == user.id)) == "odd text"
    page.context.close()


def test_dragging_ranks_from_the_top(site: Site) -> None:
    user, queue = person(site.store, "dragger"), filled(site.store, "rank", candidates(1, 3), name="drags")
    page = site.page(user)
    page.goto(f"{site.url}/work/{queue}")
    cards = page.locator(".rank")
    cards.nth(2).drag_to(cards.nth(0), target_position={"x": 40, "y": 4}, source_position={"x": 40, "y": 8})
    pressed(page, "Enter")
    with site.store.read() as tx:
        row = tx.execute(sa.select(labels).where(labels.c.user_id == user.id)).one()
    assert [row.answer["ranking"][k] for k in row.shown_order] == [2, 3, 1]
    page.context.close()


def test_two_browsers_race_and_never_hold_one_item(site: Site) -> None:
    crew = [person(site.store, f"racer{i}") for i in range(2)]
    queue = filled(site.store, "vote", candidates(8, 1), name="race")
    pages = [site.page(user) for user in crew]
    for page in pages:
        page.goto(f"{site.url}/work/{queue}", wait_until="commit")  # both at once
    for _ in range(4):
        with site.store.read() as tx:
            held = tx.scalars(
                sa.select(leases.c.item_id).where(leases.c.queue_id == queue, leases.c.state == "open")
            ).all()
        assert len(held) == len(set(held))
        for page in pages:
            page.wait_for_selector("#answer")
            page.wait_for_load_state()  # keys are heard once the script has run
        with pages[0].expect_navigation(), pages[1].expect_navigation():
            for page in pages:
                page.keyboard.press("y")
    for page in pages:
        expect(page.get_by_text("Nothing is left for you")).to_be_visible()
        page.context.close()
    with site.store.read() as tx:
        rows = tx.scalars(sa.select(labels.c.item_id).where(labels.c.queue_id == queue)).all()
    assert len(rows) == len(set(rows)) == 8


CANARY = "\"'><script>window.canary=1</script><img src=x onerror=window.canary=1><svg onload=window.canary=1>"


def test_hostile_texts_stay_texts(site: Site) -> None:
    user = person(site.store, f"{CANARY[:40]}", group=CANARY[:50])
    op = person(site.store, "guard", role="operator")
    item = Candidate(CANARY, (CANARY + "1", CANARY + "2"), (CANARY, CANARY), source="s")
    queue = filled(site.store, "compare", [item], name=CANARY[-60:])
    with site.store.write() as tx:
        add_guideline(tx, 1, CANARY, CANARY)
    page = site.page(user)
    page.goto(f"{site.url}/work/{queue}")
    expect(page.locator(".prompt")).to_have_text(CANARY)
    page.keyboard.press("f")
    page.keyboard.type(CANARY)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    page.keyboard.press("m")
    page.keyboard.type(CANARY)
    page.keyboard.press("Escape")
    pressed(page, "1")
    for path in ("/", "/history", "/guideline/1", "/ask"):
        page.goto(site.url + path)
        assert page.evaluate("window.canary") is None, path
    page.fill("[name=prompt]", CANARY)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_url("**/ask/*")
    assert page.evaluate("window.canary") is None
    page.context.close()
    boss = site.page(op)
    for path in ("/operate", "/operate/projects/1", "/operate/people", "/operate/flags", "/operate/audit"):
        boss.goto(site.url + path)
        assert boss.evaluate("window.canary") is None, path
    boss.goto(f"{site.url}/operate/people")
    boss.get_by_role("link", name=user.name).click()
    expect(boss.locator("h1")).to_have_text(user.name)
    assert boss.evaluate("window.canary") is None
    assert boss.locator("img, svg").count() == 0
    boss.context.close()


CHAT = [
    {"role": "system", "content": f"Be brief. {CANARY}"},
    {"role": "user", "content": f"<h2>A manual</h2>\n{'Read it all. ' * 200}{CANARY}"},
    {"role": "assistant", "content": f"</div></li></ol>Read.\n\nUser: no turn of mine {CANARY}"},
    {"role": "tool", "content": f'{{"stock": 3}} {CANARY}'},
    {"role": f"system {CANARY}", "content": "a role that nobody knows"},  # an old import may hold one
    {"role": "user", "content": f"Which  one?\n{CANARY}"},
]
SPEAKERS = ["System", "User", "Assistant", "Tool", f"Role “system {CANARY}”", "User"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_is_labeled_turn_by_turn(kind: str, site: Site) -> None:
    user, op = person(site.store, f"chat {kind}"), person(site.store, f"boss {kind}", role="operator")
    texts = (f"This one. {CANARY}", "That one.", "None.")[
        : 3 if kind == "rank" else 2 if kind == "compare" else 1
    ]
    chat = Candidate(f"chat {kind}", texts, ("",) * len(texts), reference="The best.", messages=CHAT)
    queue = filled(site.store, kind, [chat], name=f"chat {kind}")
    page = site.page(user, viewport={"width": 1000, "height": 700})
    page.goto(f"{site.url}/work/{queue}")

    turns = page.locator(".turn")
    expect(turns.locator(".who")).to_have_text(SPEAKERS)
    assert turns.locator(".text").all_text_contents() == [turn["content"] for turn in CHAT]
    looks = [set(turn.get_attribute("class").split()) - {"turn"} for turn in turns.all()]
    assert looks == [{"system"}, {"user"}, {"assistant"}, {"tool"}, {"other"}, {"user"}]
    font = "element => getComputedStyle(element.querySelector('.text')).fontFamily"
    assert "mono" in turns.nth(3).evaluate(font)
    assert "mono" not in turns.nth(5).evaluate(font)
    # The box begins at its end, where the turn is that is answered. What is long before it is folded.
    expect(turns.nth(5).locator(".text")).to_be_in_viewport()
    expect(turns.nth(1).locator(".text")).to_be_hidden()
    expect(turns.nth(1).locator(".preview")).to_contain_text("<h2>A manual</h2> Read it all.")
    turns.nth(1).locator("summary").click()
    expect(turns.nth(1).locator(".text")).to_be_visible()
    expect(turns.nth(0).locator(".text")).to_be_visible()
    turns.nth(0).locator("summary").press("Enter")
    expect(turns.nth(0).locator(".text")).to_be_hidden()
    page.keyboard.press("Escape")  # closes a remark, but folds no turn
    expect(turns.nth(1).locator(".text")).to_be_visible()

    answers = page.locator(".rank" if kind == "rank" else ".output")
    expect(answers.locator(".who")).to_have_text(
        ["Assistant"] * len(texts) if kind != "judge" else ["Assistant"] * 2
    )
    assert CANARY in " ".join(answers.locator(".text").all_text_contents()) or kind == "judge"
    axe = Axe().run(page).response["violations"]
    assert not axe, [violation["id"] for violation in axe]
    if kind == "edit":
        page.fill("textarea", "This one, please.")
        page.keyboard.press("Escape")
    page.locator("body").click(position={"x": 2, "y": 2})
    pressed(page, *(["1", "2", "Enter"] if kind == "rank" else [KEYS[kind]]))
    assert count(site, user, queue) == 1

    page.goto(f"{site.url}/history")
    row = page.locator("tbody tr").first
    expect(row.locator("summary").first).to_contain_text("Which one?")
    row.locator("summary").first.click()
    expect(row.locator(".turn .who")).to_have_text(SPEAKERS)
    boss = site.page(op)
    boss.goto(f"{site.url}/operate/labeler?name=chat {kind}")
    boss.locator("tbody summary").first.click()
    expect(boss.locator(".turn .who")).to_have_text(SPEAKERS)
    for each in (page, boss):
        assert each.evaluate("window.canary") is None
        assert each.locator("img, svg, h2 h2").count() == 0
        each.context.close()


def test_a_conversation_is_labeled_without_scripts_on_a_phone(site: Site) -> None:
    user = person(site.store, "no scripts")
    chat = Candidate("chat", ("a", "b"), ("", ""), messages=CHAT)
    queue = filled(site.store, "compare", [chat], name="chat without scripts")
    view = {"width": 360, "height": 740}
    page = site.page(user, java_script_enabled=False, viewport=view, is_mobile=True, has_touch=True)
    page.goto(f"{site.url}/work/{queue}")
    expect(page.locator(".turn .who")).to_have_text(SPEAKERS)
    expect(page.locator(".turn").last.locator(".text")).to_be_in_viewport()
    page.locator(".turn").nth(1).locator("summary").click()
    expect(page.locator(".turn").nth(1).locator(".text")).to_be_visible()
    wide = page.locator("main *").evaluate_all(
        "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    )
    assert wide <= view["width"]
    page.get_by_role("button", name="no difference").click()
    expect(page.get_by_text("Nothing is left for you")).to_be_visible()
    assert count(site, user, queue) == 1
    page.context.close()


def test_another_site_cannot_post(site: Site, tmp_path: Path) -> None:
    op = person(site.store, "victim", role="operator")
    (tmp_path / "evil.html").write_text(
        f"<form method=post action='{site.url}/operate/projects'><input name=name value=evil></form>"
        "<script>document.forms[0].submit()</script>"
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    evil = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=evil.serve_forever, daemon=True).start()
    page = site.page(op)
    # localhost against 127.0.0.1 is another site; a Lax cookie would not even travel, so send it always
    page.context.clear_cookies()
    sign_in(site, page.context, op)
    with page.expect_navigation(url=f"{site.url}/operate/projects"):
        page.goto(f"http://localhost:{evil.server_port}/evil.html")
    expect(page.locator("body")).to_contain_text("does not come from a page of this site")
    evil.shutdown()
    page.goto(f"{site.url}/operate")
    expect(page.get_by_role("link", name="evil")).to_have_count(0)
    page.context.close()


def test_an_ended_session_leads_to_sign_in_and_back(site: Site) -> None:
    user, queue = person(site.store, "sleeper"), filled(site.store, "vote", candidates(2, 1), name="naps")
    page = site.page(user)
    page.goto(f"{site.url}/work/{queue}")
    with site.store.write() as tx:
        old = time.time() - people.SESSION_IDLE - 1
        tx.execute(sessions.update().where(sessions.c.user_id == user.id).values(seen=old))
    page.keyboard.press("y")
    expect(page.get_by_text("your session may have ended")).to_be_visible()
    page.goto(f"{site.url}/work/{queue}")
    page.wait_for_url("**/login?to=**")
    page.get_by_label("Name").fill("sleeper")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/work/{queue}")
    assert count(site, user, queue) == 0
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, site: Site) -> None:
    op = person(site.store, f"axe-{scheme}", role="operator")
    paths = ["/", "/history", "/account", "/ask", "/login", "/nothing"]
    for kind in KINDS:
        queue = filled(
            site.store, kind, candidates(3, 2 if kind in ("compare", "rank") else 1), name=f"{scheme} {kind}"
        )
        paths.append(f"/work/{queue}")
    known = [Candidate("p", ("good", "bad"), ("", ""), expected={"ranking": [1, 2]}, explanation="why")]
    with site.store.write() as tx:
        add_guideline(tx, 1, "Be kind.", "test")
        add_items(tx, queue_row(tx, "p", f"{scheme} compare"), known, Filling("onboarding"), "test")
    paths += ["/guideline/1", "/operate", "/operate/projects/1", "/operate/people", "/operate/flags"]
    paths += ["/operate/agreement", "/operate/audit", f"/operate/labeler?name=axe-{scheme}"]
    if scheme == "dark":  # each part of the style sheet once more
        paths = [
            path for path in paths if path.startswith(("/work", "/operate/labeler", "/operate/agreement"))
        ]
    page, axe, violations = site.page(op, color_scheme=scheme), Axe(), []
    compare = next(path for path in paths if path.startswith("/work/"))
    page.goto(site.url + compare)
    page.keyboard.press("1")
    page.wait_for_url("**/onboarding/**")
    for path in [page.url.removeprefix(site.url), *paths]:
        page.goto(site.url + path)
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        # what the scheme changes are colours: all rules once, those of contrast again
        options = {} if scheme == "light" else {"runOnly": ["color-contrast"]}
        for violation in axe.run(page, options=options).response["violations"]:
            nodes = [node["html"][:150] for node in violation["nodes"][:3]]
            violations.append(f"{path}: {violation['id']}: {nodes}")
    page.context.close()
    assert not violations, "\n".join(violations)


def test_pages_fit_a_phone(site: Site) -> None:
    op = person(site.store, "phone", role="operator")
    queue = filled(site.store, "rank", candidates(2, 4), name="on a phone")
    page = site.page(op, viewport={"width": 360, "height": 740})
    paths = ("/", f"/work/{queue}", "/history", "/ask", "/operate", "/operate/projects/1", "/operate/people")
    for path in paths:
        page.goto(site.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.context.close()


def test_every_item_was_handed_out_within_its_target(site: Site) -> None:
    with site.store.read() as tx:  # after all that happened above
        assert tx.scalar(sa.select(sa.func.count()).where(items.c.taken > items.c.target)) == 0
