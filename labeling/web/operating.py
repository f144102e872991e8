"""The operator's pages: projects, queues, people, agreement, export, flags, audit log."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import RedirectResponse, Response

from labeling import people
from labeling.candidates import read_candidates
from labeling.exports import FORMATS, export
from labeling.items import Filling, add_items
from labeling.labelers import Agreement, agreement_by_group, agreement_by_period, labelers
from labeling.labels import is_current
from labeling.progress import queue_progress
from labeling.projects import add_guideline, add_project, guideline
from labeling.queues import add_queue, change_queue, queue_by_id
from labeling.sampling import SAMPLINGS
from labeling.schema import (
    KINDS,
    ROLES,
    audit,
    flags,
    groups,
    items,
    labels,
    projects,
    users,
    version_labels,
    versions,
)
from labeling.versions import cut_version, new_labels
from labeling.web.fields import LONG, MOST, NAME, Id, OptionalId, Text
from labeling.web.pages import page
from labeling.web.security import MOST_BYTES, Operator
from labeling.work import Gone
from rlhf.data.errors import DataError
from rlhf.data.formats.compressed import COMPRESSIONS
from rlhf.data.formats.limits import at_most

router = APIRouter(prefix="/operate", tags=["operating"])
MOST_UNPACKED = 16 * MOST_BYTES  # that a packed file of items may hold
ROWS = 100  # of the audit log, or of flags, on a page
Name = Annotated[Text, Form(max_length=NAME)]
PathName = Annotated[Text, Query(max_length=NAME)]


@router.get("")
def overview(request: Request, user: Operator) -> Response:
    """All projects with their queues."""
    with request.app.state.store.read() as tx:
        rows = tx.execute(sa.select(projects).order_by(projects.c.name)).all()
        entries = [
            {"row": row, "queues": queue_progress(tx, row.id), "new": new_labels(tx, row.name)}
            for row in rows
        ]
    return page("overview.html", user, title="Projects", projects=entries)


@router.post("/projects")
def create_project(request: Request, user: Operator, name: Name) -> Response:
    """Add a project."""
    with request.app.state.store.write() as tx:
        number = add_project(tx, name, user.name)
    return RedirectResponse(f"/operate/projects/{number}", 303)


def _project(tx: sa.Connection, number: int) -> sa.Row[tuple[int, str, float]]:
    row = tx.execute(sa.select(projects).where(projects.c.id == number)).first()
    if row is None:
        raise Gone("there is no such project")
    return row


@router.get("/projects/{project}")
def project_page(request: Request, user: Operator, project: Id) -> Response:
    """A project: queues, filling them, guideline, versions and export."""
    with request.app.state.store.read() as tx:
        row = _project(tx, project)
        counted = (
            sa.select(
                versions.c.number, versions.c.created, versions.c.author, sa.func.count().label("labels")
            )
            .join(version_labels, version_labels.c.version_id == versions.c.id)
            .where(versions.c.project_id == project)
            .group_by(versions.c.id)
            .order_by(versions.c.number.desc())
        )
        values = {
            "project": row,
            "queues": queue_progress(tx, project),
            "guideline": guideline(tx, project),
            "versions": tx.execute(counted).all(),
            "new": new_labels(tx, row.name),
            "groups": tx.scalars(sa.select(groups.c.name).order_by(groups.c.name)).all(),
        }
    return page(
        "project.html",
        user,
        title=row.name,
        kinds=KINDS,
        samplings=SAMPLINGS,
        formats=FORMATS,
        **values,
    )


@router.post("/projects/{project}/guideline")
def publish_guideline(
    request: Request, user: Operator, project: Id, text: Annotated[Text, Form(max_length=LONG)]
) -> Response:
    """Add the guideline's next version."""
    with request.app.state.store.write() as tx:
        _project(tx, project)
        add_guideline(tx, project, text.replace("\r\n", "\n"), user.name)
    return RedirectResponse(f"/operate/projects/{project}", 303)


@router.post("/projects/{project}/queues")
def create_queue(
    request: Request,
    user: Operator,
    project: Id,
    name: Name,
    kind: Annotated[Literal["compare", "rank", "vote", "edit", "judge"], Form()],
    overlap: Annotated[int, Form(ge=1, le=1000)] = 1,
    lease_minutes: Annotated[float, Form(gt=0, le=10080)] = 30.0,
    group: Name = "",
) -> Response:
    """Add a queue."""
    with request.app.state.store.write() as tx:
        _project(tx, project)
        seconds = max(1, round(lease_minutes * 60))
        add_queue(tx, project, name, kind, user.name, overlap, seconds, group.strip() or None)
    return RedirectResponse(f"/operate/projects/{project}", 303)


@router.post("/queues/{queue}")
def save_queue(
    request: Request,
    user: Operator,
    queue: Id,
    overlap: Annotated[int, Form(ge=1, le=1000)],
    lease_minutes: Annotated[float, Form(gt=0, le=10080)],
    group: Name = "",
    active: Annotated[bool, Form()] = False,
) -> Response:
    """Change a queue's overlap, lease, group, or close it."""
    with request.app.state.store.write() as tx:
        row = queue_by_id(tx, queue)
        seconds = max(1, round(lease_minutes * 60))
        change_queue(tx, queue, user.name, overlap, seconds, group.strip() or None, active)
    return RedirectResponse(f"/operate/projects/{row.project_id}", 303)


@router.post("/queues/{queue}/items")
def fill_queue(
    request: Request,
    user: Operator,
    queue: Id,
    file: Annotated[UploadFile, File()],
    role: Annotated[Literal["work", "gold", "onboarding"], Form()] = "work",
    sampling: Annotated[Literal["all", "random", "disagreement"], Form()] = "all",
    number: Annotated[int | None, Form(ge=1, le=MOST)] = None,
    shared: Annotated[float, Form(ge=0, le=1)] = 0.0,
    shared_overlap: Annotated[int, Form(ge=1, le=1000)] = 3,
    repeats: Annotated[float, Form(ge=0, le=1)] = 0.0,
    seed: Annotated[int, Form(ge=0, le=MOST)] = 0,
) -> Response:
    """Fill a queue from a file."""
    name = Path((file.filename or "items").replace("\0", "").encode("utf-8", "replace").decode()).name[-80:]
    filling = Filling(role, sampling, number, shared, shared_overlap, repeats, seed)
    with tempfile.TemporaryDirectory() as folder:
        *_, last = kinds = Path(name).suffixes[-2:] or [""]  # .gz says nothing without the type before it
        path = Path(folder) / f"items{''.join(kinds if last.lower() in COMPRESSIONS else [last])[:20]}"
        path.write_bytes(file.file.read())
        try:
            with at_most(MOST_UNPACKED):
                candidates = read_candidates(path, name)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from None
    with request.app.state.store.write() as tx:
        row = queue_by_id(tx, queue)
        add_items(tx, row, candidates, filling, user.name)
    return RedirectResponse(f"/operate/projects/{row.project_id}", 303)


@router.post("/projects/{project}/cut")
def make_version(request: Request, user: Operator, project: Id) -> Response:
    """Put all new labels into a new version."""
    with request.app.state.store.write() as tx:
        if cut_version(tx, _project(tx, project).name, user.name) is None:
            raise HTTPException(400, "there are no labels that are in no version yet")
    return RedirectResponse(f"/operate/projects/{project}", 303)


@router.get("/projects/{project}/export")
def download_labels(
    request: Request,
    user: Operator,
    project: Id,
    form: Annotated[Literal["parquet", "jsonl", "csv"], Query(alias="format")] = "jsonl",
    version: OptionalId = None,
) -> Response:
    """A version of the labels, or all of them, as a zip file; the same labels are the same bytes."""
    with tempfile.TemporaryDirectory() as folder, request.app.state.store.read() as tx:
        row = _project(tx, project)
        manifest = export(tx, row.name, Path(folder) / "labels", form, version)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted((Path(folder) / "labels").iterdir()):
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED)
    name = f"labels-{project}-{version or 'all'}-{manifest['content_hash'][:8]}.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(packed.getvalue(), media_type="application/zip", headers=headers)


@router.get("/people")
def people_page(request: Request, user: Operator) -> Response:
    """All people, and a form for new ones."""
    with request.app.state.store.read() as tx:
        counted = (
            sa.select(labels.c.user_id, sa.func.count().label("labels"))
            .where(is_current())
            .group_by(labels.c.user_id)
            .subquery()
        )
        chosen = (
            sa.select(
                users, groups.c.name.label("group"), sa.func.coalesce(counted.c.labels, 0).label("labels")
            )
            .join(groups)
            .outerjoin(counted, counted.c.user_id == users.c.id)
            .order_by(users.c.name)
        )
        rows = tx.execute(chosen).all()
        group_names = tx.scalars(sa.select(groups.c.name).order_by(groups.c.name)).all()
    return page("people.html", user, title="People", rows=rows, groups=group_names, roles=ROLES)


@router.post("/people")
def create_user(
    request: Request,
    user: Operator,
    name: Name,
    password: Annotated[Text, Form(max_length=1000)],
    role: Annotated[Literal["labeler", "operator"], Form()] = "labeler",
    group: Name = "labelers",
) -> Response:
    """Add a user."""
    with request.app.state.store.write() as tx:
        people.add_user(tx, name, password, role, group, user.name)
    return RedirectResponse("/operate/people", 303)


@router.post("/people/change")
def save_user(
    request: Request,
    user: Operator,
    name: Name,
    role: Annotated[Literal["labeler", "operator"], Form()],
    group: Name,
    active: Annotated[bool, Form()] = False,
    password: Annotated[Text, Form(max_length=1000)] = "",
) -> Response:
    """Change role, group or password, or switch a user off; an empty password stays as it is."""
    with request.app.state.store.write() as tx:
        people.change_user(
            tx, name, user.name, role=role, group=group, active=active, password=password or None
        )
    return RedirectResponse("/operate/people", 303)


@router.get("/labeler")
def labeler_page(request: Request, user: Operator, name: PathName) -> Response:
    """Statistics of one labeler, the newest labels, and a form to change the user."""
    with request.app.state.store.read() as tx:
        chosen = sa.select(users, groups.c.name.label("group")).join(groups).where(users.c.name == name)
        person = tx.execute(chosen).first()
        if person is None:
            raise Gone("there is no such user")
        newest = (
            sa.select(labels, items.c.prompt, items.c.messages, items.c.role.label("item_role"))
            .join(items, items.c.id == labels.c.item_id)
            .where(labels.c.user_id == person.id)
            .order_by(labels.c.id.desc())
            .limit(20)
        )
        [statistics] = labelers(tx, name)
        rows = tx.execute(newest).all()
        group_names = tx.scalars(sa.select(groups.c.name).order_by(groups.c.name)).all()
    values = {"person": person, "statistics": statistics, "rows": rows, "groups": group_names, "roles": ROLES}
    return page("labeler.html", user, title=name, **values)


@router.get("/agreement")
def agreement_page(
    request: Request,
    user: Operator,
    project: OptionalId = None,
    days: Annotated[int, Query(ge=1, le=365)] = 7,
) -> Response:
    """Agreement over time and by group, and the statistics of all labelers."""
    with request.app.state.store.read() as tx:
        all_projects = tx.execute(sa.select(projects).order_by(projects.c.name)).all()
        chosen = project or (all_projects[0].id if all_projects else None)
        columns: list[str] = []
        rows: list[tuple[str, dict[str, Agreement]]] = []
        by_group: dict[str, dict[str, Any]] = {}
        if chosen is not None:
            row = _project(tx, chosen)
            columns, rows = agreement_by_period(tx, chosen, days)
            by_group = agreement_by_group(tx, row.name)
        everybody = labelers(tx)
    values = {"projects": all_projects, "project": chosen, "days": days, "columns": columns, "rows": rows}
    return page("agreement.html", user, title="Agreement", labelers=everybody, by_group=by_group, **values)


@router.get("/flags")
def flags_page(request: Request, user: Operator, before: OptionalId = None) -> Response:
    """What labelers flagged, the newest first."""
    chosen = (
        sa.select(flags, items.c.prompt, items.c.messages, items.c.outputs, users.c.name.label("who"))
        .join(items, items.c.id == flags.c.item_id)
        .join(users, users.c.id == flags.c.user_id)
        .order_by(flags.c.id.desc())
        .limit(ROWS)
    )
    if before is not None:
        chosen = chosen.where(flags.c.id < before)
    with request.app.state.store.read() as tx:
        rows = tx.execute(chosen).all()
    return page("flags.html", user, title="Flags", rows=rows, full=len(rows) == ROWS)


@router.get("/audit")
def audit_page(request: Request, user: Operator, before: OptionalId = None) -> Response:
    """Who changed what, the newest first."""
    chosen = sa.select(audit).order_by(audit.c.id.desc()).limit(ROWS)
    if before is not None:
        chosen = chosen.where(audit.c.id < before)
    with request.app.state.store.read() as tx:
        rows = tx.execute(chosen).all()
    return page("audit.html", user, title="Audit", rows=rows, full=len(rows) == ROWS)
