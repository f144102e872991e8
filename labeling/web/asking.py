"""Asking the served model: a person asks, sees one or two answers, and votes, chooses or edits.

What they say is stored like any other label, in the queue `asked` of the project `served`. The model is a
callable that whoever starts the app hands in; it is asked for its newest version every time.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, Protocol

import sqlalchemy as sa
from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, Field

from labeling.answers import Choice
from labeling.candidates import Candidate
from labeling.items import item_values
from labeling.labels import store_answer
from labeling.people import User
from labeling.projects import add_project
from labeling.queues import add_queue
from labeling.rows import clean, content_hash, insert
from labeling.schema import ASK, items, labels, leases, projects, queues
from labeling.store import Store
from labeling.web.fields import LONG, Text
from labeling.web.pages import page
from labeling.web.security import SignedIn
from labeling.work import Gone, lease, shuffled
from rlhf.data.errors import DataError

router = APIRouter(tags=["asking"])
PROJECT, QUEUE = "served", "asked"
KEEP_SECONDS = 7 * 24 * 3600  # how long an answer can be judged


class Answer(Protocol):
    """The served model. `version` names what answered last, e.g. `rlhf-policy/3`; `chat` says whether that
    model knows conversations, so that a question is a user's turn.

    Raises `DataError` when it cannot answer, e.g. because no model is promoted yet.
    """

    version: str
    chat: bool

    def __call__(self, prompt: str, n: int) -> list[str]:
        """`n` answers to a prompt; equal ones may repeat."""
        ...


class Asked(BaseModel):
    """Answers in the order shown; `key` goes back with the opinion about them."""

    key: str
    prompt: str
    messages: list[dict[str, str]] | None = None
    texts: list[str]


class Opinion(BaseModel):
    """The form below the answers: what this user thinks of them, a field for each kind of opinion."""

    key: Text = Field(max_length=100)
    scale: int | None = Field(None, ge=1, le=9)
    both_bad: bool = False
    vote: Literal["up", "down"] | None = None
    text: Text | None = Field(None, max_length=LONG)
    note: Text = Field("", max_length=2000)


@router.get("/ask")
def ask_page(request: Request, user: SignedIn) -> Response:
    """The page on which a question is asked."""
    ready = request.app.state.answer is not None
    return page("ask.html", user, title="Ask the model", ready=ready, asked=None, answered=False)


@router.post("/ask")
def ask(
    request: Request,
    user: SignedIn,
    prompt: Annotated[Text, Form(max_length=LONG)],
    answers: Annotated[int, Form(ge=1, le=2)] = 2,
) -> Response:
    """Ask, and go to the answers."""
    asked = ask_model(request.app.state, user, prompt.replace("\r\n", "\n"), answers)
    return RedirectResponse(f"/ask/{asked.key}", 303)


@router.get("/ask/{key}")
def asked_page(request: Request, user: SignedIn, key: Text) -> Response:
    """The answers, and whether this user has said what they think of them."""
    with request.app.state.store.read() as tx:
        row = _asked(tx, user, key)
        label = tx.scalar(sa.select(labels.c.id).where(labels.c.key == key))
    texts = [row.outputs[k] for k in row.shown_order]
    asked = Asked(key=key, prompt=row.prompt, messages=row.messages, texts=texts)
    return page("ask.html", user, title="Ask the model", ready=True, asked=asked, answered=label is not None)


@router.post("/ask/feedback")
def give_opinion(request: Request, user: SignedIn, opinion: Annotated[Opinion, Form()]) -> Response:
    """Store what this user thinks of the answers."""
    choice = Choice.model_validate(opinion.model_dump(exclude={"key", "note"}))
    store_opinion(request.app.state.store, user, opinion.key, choice, opinion.note)
    return RedirectResponse(f"/ask/{opinion.key}", 303)


def ask_model(state: Any, user: User, prompt: str, number: int) -> Asked:
    """Ask the model and keep the question and its answers as an item in this user's hands.

    Raises:
        HTTPException: no model is served (409), or it cannot answer.
    """
    prompt = clean(prompt, "the prompt")
    if state.answer is None:
        raise HTTPException(
            409, "no model is served here; start the app with one (make label after make run)"
        )
    try:
        answers = [clean(text, "the answer", empty=True) for text in state.answer(prompt, number)]
    except DataError as error:
        raise HTTPException(409, str(error)) from None
    texts = list(dict.fromkeys(answers))  # equal answers are shown once
    messages = [{"role": "user", "content": prompt}] if state.answer.chat else None
    answered = Candidate(
        prompt, tuple(texts), (state.answer.version,) * len(texts), source="served model", messages=messages
    )
    with state.store.write() as tx:
        queue = _queue(tx)
        item = _keep(tx, queue, answered)
        order = shuffled(len(texts))
        key, _ = lease(tx, item, queue, user.id, order, KEEP_SECONDS)
    return Asked(key=key, prompt=prompt, messages=messages, texts=[texts[k] for k in order])


def store_opinion(store: Store, user: User, key: str, choice: Choice, note: str) -> int:
    """Store what a user thinks of answers; its kind follows from which field of the choice is set.

    Raises:
        Gone: these answers were not given to this user.
        DataError: the choice does not fit the answers.
    """
    with store.write() as tx:
        row = _asked(tx, user, key)
        is_single = len(row.outputs) == 1
        if choice.vote and is_single:
            kind = "vote"
        elif choice.text is not None and is_single:
            kind = "edit"
        elif (choice.scale or choice.both_bad) and not is_single:
            kind = "compare"
        else:
            raise DataError("vote on one answer or edit it, or choose between two")
        return store_answer(tx, user, key, choice, note, kind)


def _asked(tx: sa.Connection, user: User, key: str) -> Any:
    chosen = (
        sa.select(leases.c.shown_order, items.c.prompt, items.c.messages, items.c.outputs)
        .join_from(leases, items)
        .join(queues, queues.c.id == leases.c.queue_id)
        .where(leases.c.key == key, leases.c.user_id == user.id, queues.c.kind == ASK)
    )
    row = tx.execute(chosen).first()
    if row is None:
        raise Gone("there are no such answers for you")
    return row


def _queue(tx: sa.Connection) -> int:
    """The queue of what was asked, made at the first question."""
    chosen = sa.select(queues.c.id).join(projects).where(projects.c.name == PROJECT, queues.c.name == QUEUE)
    queue = tx.scalar(chosen)
    if queue is None:
        project = tx.scalar(sa.select(projects.c.id).where(projects.c.name == PROJECT))
        project = project or add_project(tx, PROJECT, "served model")
        queue = add_queue(tx, project, QUEUE, ASK, "served model")
    return queue


def _keep(tx: sa.Connection, queue: int, answered: Candidate) -> int:
    """The item of a question and its answers; the same again is the same item, with one label more wanted."""
    digest = content_hash(answered.prompt, list(answered.outputs), None, answered.messages)
    same = sa.select(items.c.id).where(items.c.queue_id == queue, items.c.content_hash == digest)
    item = tx.scalar(same)
    if item is not None:
        more = {"target": items.c.target + 1, "taken": items.c.taken + 1}
        tx.execute(items.update().where(items.c.id == item).values(**more))
        return item
    values = item_values(queue, answered, "work", time.time(), 1, digest, "asked", 1.0)
    return insert(tx, items, values | {"taken": 1})
