"""The same work for programs, as JSON: sign in with `Authorization: Bearer TOKEN` (`python -m labeling user
token`).

Texts come in the order shown, without the names of their policies, and answers refer to that order.
"""

from __future__ import annotations

import sqlalchemy as sa
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from labeling.answers import Choice
from labeling.labels import StoredAnswer, store_and_take_next, undo
from labeling.people import User
from labeling.standing import standing
from labeling.web.asking import Asked, ask_model, store_opinion
from labeling.web.fields import LONG, Id, Text
from labeling.web.labeling import open_queues
from labeling.web.security import SignedIn, Token, write_as
from labeling.work import Work, held, next_work

router = APIRouter(prefix="/api", tags=["api"])


class Queue(BaseModel):
    """A queue that this user may work in."""

    id: int
    project: str
    name: str
    kind: str
    done: int
    left: int


class Message(BaseModel):
    """A turn of a conversation."""

    role: str
    content: str


class Item(BaseModel):
    """An item that is handed out; `key` goes back with the answer. `messages` are the turns of a
    conversation, of which a text is the next; null where the prompt is plain text."""

    key: str
    queue: int
    kind: str
    prompt: str
    messages: list[Message] | None
    texts: list[str]
    expires: float

    @classmethod
    def from_work(cls, work: Work | None) -> Item | None:
        """What a program may see of an item."""
        if work is None:
            return None
        return cls(
            key=work.key,
            queue=work.queue_id,
            kind=work.kind,
            prompt=work.prompt,
            messages=None if work.messages is None else [Message(**turn) for turn in work.messages],
            texts=work.texts,
            expires=work.expires,
        )


class Next(BaseModel):
    """The next item, or null when nothing is left for this user."""

    item: Item | None


class SentAnswer(BaseModel):
    """An answer: a choice, or a skip whose reason is the note."""

    model_config = ConfigDict(extra="forbid")
    key: Text = Field(max_length=100)
    choice: Choice | None = None
    note: Text = Field("", max_length=2000)


class Stored(BaseModel):
    """The stored label, and the next item of the same queue."""

    label: int
    item: Item | None


class Question(BaseModel):
    """A prompt for the served model."""

    model_config = ConfigDict(extra="forbid")
    prompt: Text = Field(min_length=1, max_length=LONG)
    answers: int = Field(1, ge=1, le=2)


class Verdict(BaseModel):
    """What answers of the served model are worth: a vote or an edit of one, a choice between two."""

    model_config = ConfigDict(extra="forbid")
    key: Text = Field(max_length=100)
    choice: Choice
    note: Text = Field("", max_length=2000)


class Label(BaseModel):
    """A stored label."""

    label: int


@router.get("/health")
def health() -> dict[str, str]:
    """Whether the app is up."""
    return {"status": "ok"}


@router.get("/queues")
def list_queues(request: Request, user: SignedIn) -> list[Queue]:
    """The queues that this user may work in."""
    with request.app.state.store.read() as tx:
        return [
            Queue(
                id=row.id,
                project=row.project,
                name=row.name,
                kind=row.kind,
                done=stand.done,
                left=stand.left,
            )
            for row in open_queues(tx, user)
            for stand in [standing(tx, user, row.id)]
        ]


@router.post("/queues/{queue}/next")
def next_item(request: Request, user: SignedIn, queue: Id) -> Next:
    """Take the next item of a queue; the same one again until it is answered."""
    store = request.app.state.store
    with store.read() as tx:
        item = held(tx, user, queue)
    return Next(item=Item.from_work(item or next_work(store, user, queue)))


@router.post("/labels")
def store_label(request: Request, token: Token, sent: SentAnswer) -> Stored:
    """Store an answer; the same key again stores nothing and gives the same label."""

    def store_it(tx: sa.Connection, user: User) -> StoredAnswer:
        return store_and_take_next(tx, user, sent.key, sent.choice, sent.note)

    stored = write_as(request, token, store_it)
    item = stored.next or next_work(request.app.state.store, request.state.user, stored.queue_id)
    return Stored(label=stored.label, item=Item.from_work(item))


@router.post("/labels/{label}/undo")
def undo_label(request: Request, user: SignedIn, label: Id) -> Next:
    """Take a label of this user back; its item is the next one again."""
    store = request.app.state.store
    with store.write() as tx:
        queue = undo(tx, user, label)
        return Next(item=Item.from_work(held(tx, user, queue)))


@router.post("/ask")
def ask(request: Request, user: SignedIn, question: Question) -> Asked:
    """Ask the served model for one or two answers."""
    return ask_model(request.app.state, user, question.prompt, question.answers)


@router.post("/ask/feedback")
def store_verdict(request: Request, user: SignedIn, verdict: Verdict) -> Label:
    """Say what the answers were worth."""
    label = store_opinion(request.app.state.store, user, verdict.key, verdict.choice, verdict.note)
    return Label(label=label)
