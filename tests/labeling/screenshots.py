"""Take a picture of every page of the labeling app: light, dark and on a phone.

    .venv/bin/python tests/labeling/screenshots.py [--keep FOLDER]        needs Chromium; three minutes

A store of its own is filled with posts of the built-in task, which simulated labelers label over twelve
days; a stand-in answers on *Ask the model*. The pictures become contact sheets in `docs/labeling/`; with
--keep each one is also kept in its full size, which is where to look for what a page does wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, product
from operator import sub
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
import uvicorn
from PIL import Image, ImageDraw, ImageFont  # comes with matplotlib
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from flows.label import GUIDELINE, onboarding
from labeling import people
from labeling.answers import Choice
from labeling.candidates import Candidate
from labeling.items import Filling, add_items
from labeling.labels import SKIP_REASONS, flag, store_answer
from labeling.people import User
from labeling.projects import add_guideline, add_project, project_id
from labeling.queues import add_queue, change_queue, queue_row
from labeling.schema import KINDS, groups, users
from labeling.store import Store
from labeling.versions import cut_version
from labeling.web.app import create_app
from labeling.web.security import COOKIE
from labeling.work import Work, next_work
from rlhf.world.gold import gold_score
from rlhf.world.labelers import rank
from rlhf.world.posts import draw_post
from rlhf.world.writers import WRITERS, render, write

OUT = Path(__file__).resolve().parents[2] / "docs" / "labeling"
PASSWORD = "correct horse battery"
DAY = 24 * 3600.0
DAYS = 12
# name -> (group, how the simulated labeler behaves)
CREW = {
    "amina": ("expert", "expert"),
    "jonas": ("expert", "expert"),
    "lucia": ("labelers", "novice"),
    "mei": ("labelers", "novice"),
    "tomasz": ("labelers", "novice"),
    "viktor": ("labelers", "spammer"),
}
# how many items a person answers a day
DAILY = {"compare": 4, "rank": 1, "vote": 2, "edit": 1, "judge": 2}
VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 760}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 760}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 780},
        "is_mobile": True,
        "has_touch": True,
    },
}
NEW = dict(zip(VIEWS, ("noor", "ines", "petra"), strict=True))  # has labeled nothing before the picture
THEMES = ("work", "account", "operate", "empty")
COLOURS, NEAR = 96, 6  # of a written picture; nearer ones, in steps of 255, are one
Facts = dict[str, dict[str, str]]  # by prompt


class StandIn:
    """In place of a served model: writes as the built-in writers do."""

    version = "rlhf-policy/3"
    chat = False

    def __init__(self) -> None:
        self.rng = random.Random("stand-in")

    def __call__(self, prompt: str, n: int) -> list[str]:
        post = next(post for post in POSTS if post.text == prompt)
        return [write(post, self.rng, name)[0].strip() for name in ("careful", "rambling")[:n]]


CHAT = Candidate(
    "a conversation with a help desk",
    (
        "Yes: resin pads for your brake cost 12.95 euro, and there are three sets here. It squeals only when "
        "it is wet, so clean the rotor first; that may be all it needs.",
        "We have pads for 12.95 euro. Come by, and we fit them for 15 euro.",
    ),
    ("ppo", "sft"),
    messages=[
        {
            "role": "system",
            "content": "You are the help desk of a bicycle shop. Be brief. Ask before you guess.",
        },
        {"role": "user", "content": "My rear brake squeals since last week. It is a hydraulic disc brake."},
        {"role": "assistant", "content": "Does it squeal all the time, or only when it is wet?"},
        {"role": "user", "content": "Only when it is wet. Do you have pads, and what do they cost?"},
        {"role": "assistant", "content": "Let me look."},
        {"role": "tool", "content": '{"article": "resin pad", "price": 12.95, "in stock": 3}'},
    ],
)
_rng = random.Random("pictures")
POSTS = [draw_post(_rng, 0.3) for _ in range(160)]


def candidates() -> list[Candidate]:
    """Each post with a summary of every writer; the careful one's is the reference."""
    rng, made = random.Random("candidates"), []
    for post in POSTS:
        texts = {name: write(post, rng, name)[0].strip() for name in WRITERS}
        if len(set(texts.values())) == len(texts):
            made.append(
                Candidate(post.text, tuple(texts.values()), tuple(texts), texts["careful"], source="built-in")
            )
    return made


def gold(number: int = 12) -> list[Candidate]:
    """Pairs of which one tells another person's story."""
    rng, made = random.Random("gold"), []
    for post in POSTS:
        wrong = {kind: post.decoys.get(kind, value) for kind, value in post.facts.items()}
        if post.decoys and len(made) < number:
            texts = render(post.facts, rng), render(wrong, rng)
            made.append(Candidate(post.text, texts, ("right", "wrong"), expected={"ranking": [1, 2]}))
    return made


def operator(store: Store) -> User:
    """The first operator."""
    with store.write() as tx:
        number = people.add_user(tx, "robin", PASSWORD, "operator", "operators")
    return User(number, "robin", "operator", 1, "operators")


def filled(store: Store) -> dict[str, User]:
    """Twelve days of work; the people by name."""
    rng, facts = random.Random("crew"), {post.text: post.facts for post in POSTS}
    begun = time.time() - DAYS * DAY
    with clock(begun), store.write() as tx:
        for name, (group, _) in CREW.items():
            people.add_user(tx, name, PASSWORD, "labeler", group, "robin")
        people.add_user(tx, "paula", PASSWORD, "labeler", "medical reviewers", "robin")
        for name in ("henrik", *NEW.values()):
            people.add_user(tx, name, PASSWORD, "labeler", "labelers", "robin")
        people.change_user(tx, "henrik", "robin", active=False)
        project = add_project(tx, "summaries", "robin")
        add_project(tx, "translations", "robin")
        add_guideline(tx, project, GUIDELINE.split("\n\nA wrong fact")[0] + "\n", "robin")
        for kind in KINDS:
            add_queue(tx, project, kind, kind, "robin", overlap=2 if kind == "rank" else 1)
            row = queue_row(tx, "summaries", kind)
            if kind == "compare":
                add_items(tx, row, onboarding(), Filling("onboarding"), "robin")
            filling = Filling("work", "random", 400 if kind == "compare" else 150, 0.2, 3, 0.1, seed=3)
            add_items(tx, row, candidates(), filling, "robin")
            if kind == "compare":
                add_items(tx, row, gold(), Filling("gold", seed=7), "robin")
        add_queue(tx, project, "conversations", "compare", "robin")
        add_items(tx, queue_row(tx, "summaries", "conversations"), [CHAT], Filling(), "robin")
        add_queue(tx, project, "second opinions", "compare", "robin", group="expert")
        closed = add_queue(tx, project, "pilot", "compare", "robin", 2, 900, "expert")
        change_queue(tx, closed, "robin", 2, 900, "expert", False)
        crew = {
            row.name: User(row.id, row.name, row.role, row.group_id, row.group)
            for row in tx.execute(sa.select(users, groups.c.name.label("group")).join(groups))
        }
        ids = {kind: queue_row(tx, "summaries", kind).id for kind in KINDS}
    for day in range(DAYS):
        for name, (_, behaviour) in CREW.items():
            now = begun + day * DAY + rng.uniform(1, 5) * 3600
            for kind, number in DAILY.items():
                for _ in range(number + (day == 0 and kind == "compare") * 3):
                    now = answer(store, crew[name], ids[kind], behaviour, facts, now, rng)
        with clock(begun + day * DAY + 8 * 3600), store.write() as tx:
            if day == 4:
                add_guideline(tx, project, GUIDELINE, "robin")
            if day in (5, 9):
                cut_version(tx, "summaries", "robin")
    return crew


def answer(
    store: Store, user: User, queue: int, behaviour: str, facts: Facts, now: float, rng: random.Random
) -> float:
    """One simulated judgment that starts at a time; the time at which the next one may start."""
    with clock(now):
        item = next_work(store, user, queue)
    if item is None:
        return now
    choice, seconds = decide(item, behaviour, facts.get(item.prompt, {}), rng)
    with clock(now + seconds), store.write() as tx:
        if rng.random() < 0.015:
            note = rng.choice(("the post tells two stories", "the text breaks off", "names a real person?"))
            flag(tx, user, item.key, note)
        if rng.random() < 0.02 and behaviour != "spammer":
            store_answer(tx, user, item.key, None, rng.choice(SKIP_REASONS[:3]))
        else:
            note = "both say the wrong day" if rng.random() < 0.03 else ""
            store_answer(tx, user, item.key, choice, note)
    return now + seconds + 3


def decide(item: Work, behaviour: str, facts: dict[str, str], rng: random.Random) -> tuple[Choice, float]:
    """What a simulated labeler chooses, and after how many seconds."""
    if not facts:  # an onboarding post
        return Choice(scale=2 if item.shown_order[0] == 0 or behaviour == "spammer" else 8), 40.0
    shown = list(range(len(item.texts)))
    opinion = rank(facts, item.texts, shown, behaviour, rng)
    seconds = max(2.0, opinion.seconds * (0.25 if item.kind == "vote" else 0.5))
    if item.kind == "compare":
        left, right = opinion.ranking
        step = 0 if left == right else 1 + opinion.strength // 3
        return Choice(scale=5 - step if left < right else 5 + step), seconds
    if item.kind == "rank":
        return Choice(ranks=list(opinion.ranking)), seconds
    if item.kind == "vote":
        good = behaviour == "spammer" or gold_score(facts, item.texts[0]) + rng.gauss(0, 0.5) > 2.5
        return Choice(vote="up" if good else "down"), seconds
    if item.kind == "edit":
        text = item.texts[0] if behaviour == "spammer" else render(facts, rng)
        return Choice(text=text), seconds
    left, right = opinion.ranking
    return Choice(side="tie" if left == right else "left" if left < right else "right"), seconds


@contextmanager
def clock(now: float) -> Iterator[None]:
    """The time of day is `now`."""
    with patch("time.time", lambda: now):
        yield


class Camera:
    """Takes pictures of one site in one view; they are the files of `folder`, named by theme and number."""

    def __init__(self, url: str, store: Store, browser: Browser, view: str, folder: Path) -> None:
        self.url, self.store, self.folder = url, store, folder
        self.browser, self.options = browser, VIEWS[view]
        self.taken = 0

    def sign_in(self, user: User | None) -> Page:
        """A page of a new browser profile, signed in."""
        context: BrowserContext = self.browser.new_context(**self.options)  # type: ignore[arg-type]
        if user:
            with self.store.write() as tx:
                token = people.open_session(tx, user.id)
            context.add_cookies([{"name": COOKIE, "value": token, "url": self.url}])
        return context.new_page()

    def take(self, page: Page, theme: str, caption: str, path: str | None = None) -> None:
        """Go to a path, if one is named, and take a picture."""
        if path is not None:
            page.goto(self.url + path)
        page.wait_for_load_state()
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            print(f"{self.folder.name}: {caption}: the page is {wide} pixels wider than the screen")
        self.taken += 1
        name = f"{theme} {self.taken:02d} {caption}.png"
        page.screenshot(path=self.folder / name, full_page=True)


def take_all(camera: Camera, crew: dict[str, User]) -> None:
    """Every page that a labeler and an operator can reach."""
    with camera.store.read() as tx:
        ids = {
            kind: queue_row(tx, "summaries", kind).id for kind in (*KINDS, "conversations", "second opinions")
        }
        empty = project_id(tx, "translations")
    page = camera.sign_in(crew["lucia"])
    camera.take(page, "work", "My work", "/")
    for kind in KINDS:
        page.goto(f"{camera.url}/work/{ids[kind]}")
        if kind == "rank":
            page.wait_for_load_state()
            for key in "213":
                page.keyboard.press(key)
        camera.take(page, "work", kind.capitalize())
    camera.take(page, "work", "Conversation", f"/work/{ids['conversations']}")
    page.goto(f"{camera.url}/work/{ids['compare']}")
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    camera.take(page, "work", "Remark, skip, flag")
    page.goto(f"{camera.url}/work/{ids['rank']}")
    page.get_by_role("button", name="Save").click()
    camera.take(page, "work", "Refused answer")
    camera.take(page, "work", "My labels", "/history")
    camera.take(page, "work", "Guideline", "/guideline/1")
    camera.take(page, "work", "Guideline, an older version", "/guideline/1?version=1")

    fresh = camera.sign_in(crew[NEW[camera.folder.name]])
    fresh.goto(f"{camera.url}/work/{ids['compare']}")
    right = {known.outputs[0] for known in onboarding()}
    for caption, first in (("Onboarding, right", "1"), ("Onboarding, wrong", "9")):
        fresh.wait_for_load_state()
        on_left = fresh.locator(".output .text").first.inner_text() in right
        fresh.keyboard.press(first if on_left else str(10 - int(first)))
        fresh.wait_for_url("**/onboarding/**")
        camera.take(fresh, "work", caption)
        fresh.get_by_role("link", name="Go on").click()
        fresh.wait_for_url(f"**/work/{ids['compare']}")
    camera.take(fresh, "work", "My labels, after onboarding", "/history")
    done = camera.sign_in(crew["jonas"])
    camera.take(done, "work", "Nothing left", f"/work/{ids['second opinions']}")

    camera.take(page, "account", "Ask the model", "/ask")
    for number, caption in ((2, "Ask, two answers"), (1, "Ask, one answer")):
        page.goto(f"{camera.url}/ask")
        page.fill("[name=prompt]", POSTS[0].text)
        page.check(f"[name=answers][value='{number}']")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.wait_for_url("**/ask/*")
        camera.take(page, "account", caption)
    page.get_by_role("button", name="Good").click()
    camera.take(page, "account", "Ask, thanks")
    camera.take(page, "account", "My account", "/account")
    camera.take(page, "account", "403, an operator's page", "/operate")
    camera.take(page, "account", "404, no such page", "/nothing")
    camera.take(page, "account", "404, no such queue", "/work/999")
    page.goto(f"{camera.url}/work/{ids['vote']}")
    page.context.clear_cookies()
    page.get_by_role("button", name="Good").click()
    camera.take(page, "account", "The session has ended")
    camera.take(page, "account", "Sign in", "/login")
    page.get_by_label("Name").fill("lucia")
    page.get_by_label("Password").fill("guess")
    page.get_by_role("button", name="Sign in").click()
    camera.take(page, "account", "Sign in, wrong password")

    boss = camera.sign_in(crew["robin"])
    camera.take(boss, "operate", "Projects", "/operate")
    camera.take(boss, "operate", "Project", "/operate/projects/1")
    boss.evaluate(
        "for (const details of [...document.querySelectorAll('details')].slice(0, 1)) details.open = true"
    )
    camera.take(boss, "operate", "Project, filling a queue")
    camera.take(boss, "operate", "Project, empty", f"/operate/projects/{empty}")
    camera.take(boss, "operate", "People", "/operate/people")
    camera.take(boss, "operate", "Labeler", "/operate/labeler?name=amina")
    camera.take(boss, "operate", "Labeler with warnings", "/operate/labeler?name=viktor")
    camera.take(boss, "operate", "Labeler without labels", "/operate/labeler?name=paula")
    camera.take(boss, "operate", "Agreement", "/operate/agreement?project=1&days=3")
    camera.take(boss, "operate", "Agreement, empty", f"/operate/agreement?project={empty}")
    camera.take(boss, "operate", "Flags", "/operate/flags")
    camera.take(boss, "operate", "Audit log", "/operate/audit")
    for context in camera.browser.contexts:
        context.close()


def take_empty(camera: Camera, operator: User) -> None:
    """The pages of a store in which nothing is yet."""
    page = camera.sign_in(operator)
    camera.take(page, "empty", "My work, no queue", "/")
    camera.take(page, "empty", "Ask, no model served", "/ask")
    camera.take(page, "empty", "My labels, none yet", "/history")
    for caption in ("Projects", "People", "Agreement", "Flags", "Audit"):
        page.get_by_role("link", name=caption, exact=True).click()
        camera.take(page, "empty", caption)
    page.context.close()


def sheet(pictures: list[Path], width: int, columns: int, tallest: int) -> Image.Image:
    """Pictures under their captions, scaled to a width, each in the column that is shortest so far; what is
    taller than `tallest` is cut."""
    gap, head = 18, 26
    font = ImageFont.load_default(size=15 if width > 300 else 13)
    placed, ends = [], [gap] * columns
    for path in pictures:
        picture = Image.open(path).convert("RGB")
        caption = path.stem.split(" ", 2)[2]
        picture = picture.resize(
            (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
        )
        if picture.height > tallest:
            picture, caption = picture.crop((0, 0, width, tallest)), f"{caption} …"
        column = ends.index(min(ends))
        placed.append((picture, caption, gap + column * (width + gap), ends[column]))
        ends[column] += head + picture.height + gap
    whole = Image.new("RGB", (gap + columns * (width + gap), max(ends)), "#8a939e")
    pen = ImageDraw.Draw(whole)
    for picture, caption, x, y in placed:
        pen.text((x, y), caption, "#000000", font)
        whole.paste(picture, (x, y + head))
    return whole


def save(picture: Image.Image, name: str) -> None:
    """Write a small file: pages have few colours. The most frequent ones are kept as they are, others become
    the nearest of them."""
    kept: list[Any] = []
    for _, colour in sorted(picture.getcolors(picture.width * picture.height), reverse=True):
        if len(kept) < COLOURS and all(max(map(abs, map(sub, colour, known))) > NEAR for known in kept):
            kept.append(colour)
    palette = Image.new("P", (1, 1))
    palette.putpalette(list(chain.from_iterable(kept)))
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(OUT / f"{name}.png", optimize=True)


@contextmanager
def serving(store: Store, model: StandIn | None) -> Iterator[str]:
    """The app on a free port; its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(store, model), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def main() -> None:
    """Parse the arguments, take the pictures, write the sheets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="also keep every picture in its full size"
    )
    keep: Path | None = parser.parse_args().keep
    chromium = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        raise SystemExit("error: no Chromium on PATH; install it, or name it: CHROMIUM=/path/to/chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder, store = keep or Path(temporary), Store(f"sqlite:///{temporary}/labels.db")
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        for view in VIEWS:
            shutil.rmtree(folder / view, ignore_errors=True)
            (folder / view).mkdir(parents=True)
        robin = operator(store)
        with serving(store, None) as url:
            for view in VIEWS:
                take_empty(Camera(url, store, browser, view, folder / view), robin)
        crew = filled(store)
        with serving(store, StandIn()) as url:
            for view in VIEWS:
                take_all(Camera(url, store, browser, view, folder / view), crew)
        browser.close()
        store.close()
        OUT.mkdir(exist_ok=True)
        for view, theme in product(VIEWS, THEMES):
            pictures = sorted((folder / view).glob(f"{theme} *.png"))
            size = (240, 8, 1000) if view == "phone" else (600, 3, 720)
            save(sheet(pictures, *size), f"{theme}-{view}")
        single = {"compare": "work * Compare", "chat": "work * Conversation", "project": "operate * Project"}
        for name, page in single.items():
            [picture] = (folder / "light").glob(f"{page}.png")
            save(Image.open(picture).convert("RGB"), name)
    print(f"{sum(file.stat().st_size for file in OUT.glob('*.png')) / 1e6:.1f} MB of pictures in {OUT}")


if __name__ == "__main__":
    main()
