"""Simulated labelers who work in the labeling app as people do: they sign in, read the page, send the form.

They see what a person sees, blind texts in the order shown, and know the true facts of the built-in task's
posts. Their names and rows say that they are simulated.
"""

from __future__ import annotations

import random
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx

from labeling import people
from labeling.store import Store
from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.world.labelers import rank

WHO = "simulated loop"
STOP_SECONDS = 30.0  # the app lets requests end first


class Sheet(HTMLParser):
    """The page of an item to rank: the key of its form, the prompt, and the outputs as they are shown. A
    conversation is the transcript of its turns."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.key, self.prompt, self.outputs = "", "", list[str]()
        self._reading: list[str] | None = None
        self._is_prompt = False
        self._turns = list[dict[str, str]]()
        self._role: str | None = None  # of the turn that is being read
        self.feed(html)
        self.close()
        if self._turns:
            self.prompt = transcript(self._turns).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Texts are in `div.text`, those of turns in an `li` with a role; the hidden field `key` is the
        form's."""
        attributes = dict(attrs)
        kind = (attributes.get("class") or "").split()
        if tag == "div" and "text" in kind:
            self._reading, self._is_prompt = [], "prompt" in kind
        elif tag == "li" and "turn" in kind:
            self._role = attributes["data-role"]
        elif tag == "input" and attributes.get("name") == "key":
            self.key = attributes.get("value") or ""

    def handle_data(self, data: str) -> None:
        """A piece of a text."""
        if self._reading is not None:
            self._reading.append(data)

    def handle_endtag(self, tag: str) -> None:
        """A text ends with its `div`; nothing else is inside."""
        if tag == "div" and self._reading is not None:
            text = "".join(self._reading)
            if self._role is not None:
                self._turns.append({"role": self._role, "content": text})
                self._role = None
            elif self._is_prompt:
                self.prompt = text
            else:
                self.outputs.append(text)
            self._reading = None


@dataclass
class Labeler:
    """One simulated labeler with a browser of their own.

    Attributes:
        id, group: as `rlhf.world.labelers.pool` gives them.
        url: the labeling app's address.
        queue: number of the queue to work in.
        facts: prompt -> the true facts of the post.
        seed: with the prompt, it seeds everything that this labeler does at random.
    """

    id: str
    group: str
    url: str
    queue: int
    facts: Mapping[str, dict[str, str]]
    seed: int
    page: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.browser = httpx.Client(
            base_url=self.url, headers={"Sec-Fetch-Site": "same-origin"}, follow_redirects=True, timeout=60
        )

    @property
    def name(self) -> str:
        """The name of the account."""
        return f"simulated {self.id}"

    def sign_in(self, password: str) -> None:
        """Sign in, and open the queue."""
        form = {"name": self.name, "password": password, "to": f"/work/{self.queue}"}
        self._read(self.browser.post("/login", data=form))

    def answer(self) -> bool:
        """Rank the item on the page and go on to the next; False where the page has none."""
        sheet = Sheet(self.page)
        if not sheet.key:
            return False
        self._read(self.browser.post(f"/work/{self.queue}", data={"key": sheet.key} | self._ranks(sheet)))
        return True

    def _ranks(self, sheet: Sheet) -> dict[str, str]:
        """The form's fields. Labelers who read the texts judge by them, in whatever order they are shown."""
        if sheet.prompt not in self.facts:
            raise DataError("simulated labelers know the posts of the built-in task only; here is another")
        rng = random.Random(f"{self.seed}\0{self.id}\0{sheet.prompt}")
        texts = sorted(sheet.outputs)
        shown = [texts.index(text) for text in sheet.outputs]
        ranking = rank(self.facts[sheet.prompt], texts, shown, self.group, rng).ranking
        return {f"rank_{place}": str(ranking[index]) for place, index in enumerate(shown)}

    def _read(self, answer: httpx.Response) -> None:
        if answer.status_code != 200:
            text = re.sub(r"<[^>]*>|\s+", " ", answer.text)[:200].strip()
            raise DataError(f"{self.name}: {answer.url.path}: {answer.status_code} {text}")
        self.page = answer.text


def work(
    store: Store,
    url: str,
    queue: int,
    group_of: Sequence[tuple[str, str]],
    facts: Mapping[str, dict[str, str]],
    seed: int,
) -> int:
    """Have these labelers, in turns, answer all that a queue has for them; returns how many labels they gave.

    Their accounts are open, with passwords that nobody is told, while this runs.

    Args:
        store: where the accounts are made.
        url: the address of the labeling app on that store.
        queue: its number.
        group_of: (id, group) of each labeler.
        facts: prompt -> the true facts of the post.
        seed: the seed of their noise.
    """
    crew = [Labeler(name, group, url, queue, facts, seed) for name, group in group_of]
    answered = 0
    try:
        for labeler in crew:
            password = secrets.token_urlsafe(18)
            account(store, labeler, active=True, password=password)
            labeler.sign_in(password)
        busy = crew
        while busy:
            busy = [labeler for labeler in busy if labeler.answer()]
            answered += len(busy)
    finally:
        for labeler in crew:
            labeler.browser.close()
            account(store, labeler, active=False)
    return answered


def account(store: Store, labeler: Labeler, active: bool, password: str | None = None) -> None:
    """Make or change a labeler's account."""
    with store.write() as tx:
        try:
            people.change_user(tx, labeler.name, WHO, group=labeler.group, active=active, password=password)
        except DataError:
            if active:
                people.add_user(tx, labeler.name, password, "labeler", labeler.group, WHO)


@contextmanager
def labeling_app(model: str) -> Iterator[str]:
    """The labeling app on a free port, serving a model's @champion, as long as the block runs; its URL. It
    stops when this process does, killed or not.

    Raises:
        DataError: it does not start.
    """
    command = [sys.executable, "-m", "flows.label", "--port", "0", "--model", model, "--until-eof"]
    app = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert app.stdin
    assert app.stdout
    url = None
    try:
        while url is None and (line := app.stdout.readline()):
            print(line, end="", flush=True)  # also a first operator's password, which is shown once
            url = re.search(r"http://\S+", line)
        if url is None:
            raise DataError("the labeling app does not start; its own error is above")
        yield url[0]
    finally:
        app.stdin.close()
        try:
            app.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # a request hangs
            app.kill()
            app.wait()
