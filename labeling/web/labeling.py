"""The labeler's pages: queues, one item at a time, undo, history, guideline."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, Field, ValidationError

from labeling.answers import Choice
from labeling.labels import (
    SKIP_REASONS,
    StoredAnswer,
    flag,
    is_superseded,
    store_and_take_next,
    store_answer,
    undo,
)
from labeling.people import User
from labeling.projects import guideline
from labeling.schema import ASK, guidelines, items, labels, projects, queues
from labeling.standing import MOST_LEFT, standing
from labeling.web.fields import LONG, MOST, Id, OptionalId, Text
from labeling.web.pages import page
from labeling.web.security import SignedIn, Token, identify, note_seen, write_as
from labeling.work import Gone, Work, held, next_work, queue_for
from rlhf.data.errors import DataError

router = APIRouter(tags=["labeling"])
HISTORY = 50  # rows of the history page
Rank = Annotated[int | None, Field(ge=1, le=9)]


class Sheet(BaseModel):
    """The form of an item: the lease's key, and the fields of its kind."""

    key: Text = Field(max_length=100)
    scale: int | None = Field(None, ge=1, le=9)
    both_bad: bool = False
    vote: Literal["up", "down"] | None = None
    side: Literal["left", "tie", "right"] | None = None
    text: Text | None = Field(None, max_length=LONG)
    rank_0: Rank = None
    rank_1: Rank = None
    rank_2: Rank = None
    rank_3: Rank = None
    rank_4: Rank = None
    rank_5: Rank = None
    rank_6: Rank = None
    rank_7: Rank = None
    rank_8: Rank = None
    note: Text = Field("", max_length=2000)

    def choice(self) -> Choice:
        """What was chosen."""
        ranks = [getattr(self, f"rank_{k}") for k in range(9)]
        return Choice(
            scale=self.scale,
            both_bad=self.both_bad,
            ranks=ranks,
            vote=self.vote,
            text=self.text,
            side=self.side,
        )


async def sheet_of(request: Request) -> Sheet:
    """The form of an item; a field that is empty counts as left out."""
    async with request.form() as form:
        values = {name: value for name, value in form.items() if value != ""}
    try:
        return Sheet.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        ) from None


@router.get("/")
def home(request: Request, user: SignedIn) -> Response:
    """The queues that this user may work in, with progress."""
    with request.app.state.store.read() as tx:
        rows = [
            {"row": row, "done": stand.done, "left": stand.left}
            for row in open_queues(tx, user)
            for stand in [standing(tx, user, row.id)]
        ]
    return page("home.html", user, title="My work", rows=rows)


def open_queues(tx: sa.Connection, user: User) -> list[sa.Row[Any]]:
    """The queues that this user may work in."""
    chosen = (
        sa.select(queues, projects.c.name.label("project"))
        .join(projects)
        .where(
            queues.c.active,
            queues.c.kind != ASK,
            sa.or_(queues.c.group_id.is_(None), queues.c.group_id == user.group_id),
        )
        .order_by(projects.c.name, queues.c.name)
    )
    return list(tx.execute(chosen))


# Every judgment pays for what follows, so the session is looked up in the same transaction and thread as the
# rest, and `sheet_of` reads the form: left to the framework, each took as long as the database (dev/LOG.md).


@router.get("/work/{queue}")
def work_page(request: Request, token: Token, queue: Id) -> Response:
    """The next item of a queue, handed out to this user."""
    return show(request, token, queue)


def show(request: Request, token: str, queue: int, error: str = "", status: int = 200) -> Response:
    """The page of the item in hand, or of the next one."""
    store = request.app.state.store
    with store.read() as tx:
        user, stale = identify(request, tx, token)
        row = standing(tx, user, queue)
        item = held(tx, user, queue)
    if stale:
        note_seen(store, token)
    left = row.left
    if item is None and (item := next_work(store, user, queue)) and left < MOST_LEFT:
        left = max(0, left - 1)  # the item that is now in hand
    return sheet_page(user, row, item, left, error, status)


def sheet_page(
    user: User, row: Any, item: Work | None, left: int, error: str = "", status: int = 200
) -> Response:
    """The page of an item; `row` is what `standing` returned."""
    return page(
        "work.html",
        user,
        status,
        title=row.name if item else "All done",
        queue=row,
        item=item,
        done=row.done,
        left=left,
        last=row.last,
        error=error,
        reasons=SKIP_REASONS,
    )


FORM = {"content": {"application/x-www-form-urlencoded": {"schema": Sheet.model_json_schema()}}}


@router.post("/work/{queue}", openapi_extra={"requestBody": FORM | {"required": True}})
def answer_item(
    request: Request, token: Token, queue: Id, sheet: Annotated[Sheet, Depends(sheet_of)]
) -> Response:
    """Store an answer and hand out the next item, in one transaction; its page is the response.

    A redirect to it would cost a labeler a second request for every judgment. That the page came from a POST
    does no harm: the form sent again is the same label, and keys.js makes reloading it a GET.
    """
    choice = sheet.choice()

    def store_it(tx: sa.Connection, user: User) -> tuple[StoredAnswer, User, Any]:
        stored = store_and_take_next(tx, user, sheet.key, choice, sheet.note)
        return stored, user, standing(tx, user, stored.queue_id) if stored.next else None

    try:
        stored, user, row = write_as(request, token, store_it)
    except Gone:
        raise
    except DataError as error:
        return show(request, token, queue, str(error), 400)
    if stored.told:
        return RedirectResponse(f"/work/{stored.queue_id}/onboarding/{stored.label}", 303)
    if stored.next is None or stored.queue_id != queue:
        return RedirectResponse(f"/work/{stored.queue_id}", 303)
    return sheet_page(user, row, stored.next, row.left)


@router.post("/work/{queue}/skip")
def skip_item(
    request: Request,
    user: SignedIn,
    queue: Id,
    key: Annotated[Text, Form(max_length=100)],
    reason: Annotated[Text, Form(max_length=200)],
    note: Annotated[Text, Form(max_length=1500)] = "",
) -> Response:
    """Skip an item, with a reason."""
    full_reason = f"{reason}: {note}" if note.strip() else reason
    with request.app.state.store.write() as tx:
        queue_for(tx, user, queue)
        store_answer(tx, user, key, None, full_reason)
    return RedirectResponse(f"/work/{queue}", 303)


@router.post("/work/{queue}/flag")
def flag_item(
    request: Request,
    user: SignedIn,
    queue: Id,
    key: Annotated[Text, Form(max_length=100)],
    note: Annotated[Text, Form(max_length=2000)],
) -> Response:
    """Flag an item for the operators; it stays in hand."""
    with request.app.state.store.write() as tx:
        queue_for(tx, user, queue)
        flag(tx, user, key, note)
    return RedirectResponse(f"/work/{queue}", 303)


@router.post("/undo")
def undo_label(request: Request, user: SignedIn, label: Annotated[int, Form(ge=1, le=MOST)]) -> Response:
    """Take a label of this user back; its item is in hand again."""
    with request.app.state.store.write() as tx:
        queue = undo(tx, user, label)
        row = tx.execute(sa.select(queues.c.kind).where(queues.c.id == queue)).one()
    return RedirectResponse("/history" if row.kind == ASK else f"/work/{queue}", 303)


@router.get("/work/{queue}/onboarding/{label}")
def onboarding(request: Request, user: SignedIn, queue: Id, label: Id) -> Response:
    """Tells at once what the right answer to an onboarding item was."""
    with request.app.state.store.read() as tx:
        chosen = (
            sa.select(labels, items.c.prompt, items.c.messages, items.c.outputs, items.c.reference)
            .add_columns(items.c.expected, items.c.explanation)
            .join(items, items.c.id == labels.c.item_id)
            .where(labels.c.id == label, labels.c.user_id == user.id, items.c.role == "onboarding")
        )
        row = tx.execute(chosen).first()
    if row is None:
        raise Gone("there is no such onboarding item of yours")
    return page("onboarding.html", user, title="Onboarding", row=row, queue=queue)


@router.get("/history")
def history(request: Request, user: SignedIn) -> Response:
    """The newest labels of this user; each can be taken back."""
    with request.app.state.store.read() as tx:
        chosen = (
            sa.select(labels, items.c.prompt, items.c.messages, queues.c.name.label("queue"))
            .join(items, items.c.id == labels.c.item_id)
            .join(queues, queues.c.id == labels.c.queue_id)
            .where(
                labels.c.user_id == user.id,
                labels.c.status != "undone",
                ~is_superseded(),
            )
            .order_by(labels.c.id.desc())
            .limit(HISTORY)
        )
        rows = tx.execute(chosen).all()
    return page("history.html", user, title="My labels", rows=rows, most=HISTORY)


@router.get("/guideline/{project}")
def guideline_page(request: Request, user: SignedIn, project: Id, version: OptionalId = None) -> Response:
    """A project's guideline: the newest, or an older version."""
    with request.app.state.store.read() as tx:
        name = tx.scalar(sa.select(projects.c.name).where(projects.c.id == project))
        if name is None:
            raise Gone("there is no such project")
        row = guideline(tx, project, None if version is None else str(version))
        chosen = sa.select(guidelines.c.version, guidelines.c.created).where(
            guidelines.c.project_id == project
        )
        versions = tx.execute(chosen.order_by(guidelines.c.id.desc())).all()
    values = {"title": f"Guideline: {name}", "guideline": row, "versions": versions, "project": project}
    return page("guideline.html", user, **values)
