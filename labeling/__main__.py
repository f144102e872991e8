"""The label store and the labeling app on the command line: `python -m labeling --help`."""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from labeling import people
from labeling.address import store_address
from labeling.candidates import MOST_OUTPUTS, read_candidates
from labeling.exports import FORMATS, export
from labeling.first_operator import ensure_operator, print_login
from labeling.imports.files import read_labels
from labeling.imports.flags import add_flags, by_flags, reading_of
from labeling.imports.storing import store_labels
from labeling.items import Filling, add_items
from labeling.progress import queue_progress
from labeling.projects import add_guideline, add_project, project_id
from labeling.queues import add_queue, queue_row
from labeling.sampling import SAMPLINGS
from labeling.schema import KINDS, ROLES
from labeling.store import Store
from labeling.throttling import forget_attempts
from labeling.versions import cut_version, new_labels
from rlhf.data.errors import DataError
from rlhf.data.plural import plural

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

WHO = "command line"
TOKEN_DAYS = 365
EXAMPLES = """
examples:
  python -m labeling init                                     make the store and a first operator
  python -m labeling project add summaries
  python -m labeling guideline add summaries guideline.txt
  python -m labeling queue add summaries pairs --kind compare --overlap 2
  python -m labeling items add summaries pairs data/comparisons/comparisons.parquet --sampling random \\
      --number 500
  python -m labeling serve                                    http://127.0.0.1:8600
  python -m labeling export summaries data/labels --cut       a version for the next training round
  python -m labeling import summaries labels.jsonl

The store is --db URL, else $LABELING_DB, else .state/labels.db: sqlite:////path/file.db or
postgresql://user@host/name.
"""


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments; `run` of the parsed arguments is the function of the command."""
    top = argparse.ArgumentParser(
        prog="python -m labeling",
        description="Label store and labeling app: who preferred what, when, under which guideline.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--db", metavar="URL", help="the store's database")
    top.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    init = verbs.add_parser("init", help="make or upgrade the store, and a first operator if there is none")
    init.add_argument("--operator", default="operator", metavar="NAME", help="the first operator's name")
    init.set_defaults(run=init_store, create=True)

    app = verbs.add_parser("serve", help="start the labeling app")
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    app.add_argument("--port", type=int, default=8600, help="port (default 8600; 0 takes a free one)")
    app.add_argument("--idle-hours", type=float, default=12.0, help="a session ends after this long unused")
    app.add_argument("--name", action="append", default=[], help="another host name of this server")
    app.add_argument("--behind-proxy", action="store_true", help="trust X-Forwarded-For and -Proto")
    app.set_defaults(run=serve_app, create=True)

    _user_commands(verbs)
    _project_commands(verbs)
    _items_command(verbs)

    out = verbs.add_parser("export", help="write a project's labels to a folder, in the data contracts")
    out.add_argument("project")
    out.add_argument("folder", type=Path)
    out.add_argument("--format", choices=FORMATS, default="parquet")
    out.add_argument("--cut", action="store_true", help="first put all new labels into a new version")
    out.add_argument("--version", type=int, help="labels up to this version (with --cut: the new one)")
    out.add_argument("--since", type=int, default=0, help="leave out labels up to this version")
    out.set_defaults(run=export_labels)

    into = verbs.add_parser(
        "import",
        help="read labels from a file of any layout",
        description="Layouts are those of the pipeline's ingest: pairs, rankings, votes, exports of Argilla, "
        "Label Studio and Prodigy, and more (docs/data.md).",
    )
    into.add_argument("project", help="made if it is new")
    into.add_argument("file", type=Path)
    add_flags(into)
    into.set_defaults(run=import_labels)

    status = verbs.add_parser("status", help="projects, queues, labels, and how many are in no version yet")
    status.set_defaults(run=show_status)
    return top


def _user_commands(verbs: Verbs) -> None:
    actions = verbs.add_parser("user", help="add, change or list people").add_subparsers(
        dest="action", required=True
    )
    add = actions.add_parser("add", help="add a user; the password is asked for, or read from standard input")
    add.add_argument("name")
    add.add_argument("--role", choices=ROLES, default="labeler")
    add.add_argument("--group", default="labelers")
    add.add_argument("--random-password", action="store_true", help="make a password and print it once")
    add.set_defaults(run=add_user)
    change = actions.add_parser("change", help="change role, group, password, or switch a user off or on")
    change.add_argument("name")
    change.add_argument("--role", choices=ROLES)
    change.add_argument("--group")
    change.add_argument("--password", action="store_true", help="ask for a new password")
    change.add_argument("--off", dest="active", action="store_const", const=False, help="may not sign in")
    change.add_argument("--on", dest="active", action="store_const", const=True)
    change.set_defaults(run=change_user)
    token = actions.add_parser("token", help="print a token for programs (Authorization: Bearer ...)")
    token.add_argument("name")
    token.set_defaults(run=print_token)
    unlock = actions.add_parser("unlock", help="forget wrong passwords, so that a name may be tried again")
    unlock.add_argument("name")
    unlock.set_defaults(run=unlock_user)
    actions.add_parser("list", help="list users").set_defaults(run=list_users)


def _project_commands(verbs: Verbs) -> None:
    project = _add_parser(verbs, "project", "add a project")
    project.add_argument("name")
    project.set_defaults(run=new_project)

    guideline = _add_parser(verbs, "guideline", "add a guideline's next version")
    guideline.add_argument("project")
    guideline.add_argument("file", type=Path)
    guideline.set_defaults(run=new_guideline)

    queue = _add_parser(verbs, "queue", "add a queue")
    queue.add_argument("project")
    queue.add_argument("name")
    queue.add_argument("--kind", choices=KINDS, required=True)
    queue.add_argument("--overlap", type=int, default=1, help="labels per item (default 1)")
    queue.add_argument("--lease-minutes", type=float, default=30.0, help="time to answer an item")
    queue.add_argument("--group", help="only this group may work here")
    queue.set_defaults(run=new_queue)


def _items_command(verbs: Verbs) -> None:
    fill = _add_parser(
        verbs,
        "items",
        "fill a queue from a file",
        description="Columns: prompt (or messages, the turns of a conversation) and completions (or output), "
        "optionally policies, reference, ranking, scores, split, source, expected and explanation; or any "
        "layout that `import` reads. The comparisons of `collect` fit as they are.",
    )
    fill.add_argument("project")
    fill.add_argument("queue")
    fill.add_argument("file", type=Path)
    fill.add_argument("--role", choices=("work", "gold", "onboarding"), default="work")
    fill.add_argument("--sampling", choices=SAMPLINGS, default="all")
    fill.add_argument("--number", type=int, help="items to draw")
    fill.add_argument("--shared", type=float, default=0.0, help="share that goes to the shared pool")
    fill.add_argument("--shared-overlap", type=int, default=3, help="labels per item of the pool")
    fill.add_argument("--repeats", type=float, default=0.0, help="share that comes back, hidden")
    fill.add_argument("--seed", type=int, default=0)
    add_flags(fill)
    fill.set_defaults(run=fill_queue)


def _add_parser(
    verbs: Verbs, verb: str, text: str, description: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a command whose one action is `add`."""
    actions = verbs.add_parser(verb, help=text).add_subparsers(dest="action", required=True)
    return actions.add_parser("add", description=description)


def main(argv: list[str] | None = None) -> None:
    """Run a command; an expected error ends in one line and exit code 1."""
    arguments = parser().parse_args(argv)
    run: Callable[[Store, argparse.Namespace], None] = arguments.run
    try:
        run(Store(arguments.db or store_address(), create="create" in arguments), arguments)
    except DataError as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def init_store(store: Store, arguments: argparse.Namespace) -> None:
    """`init`."""
    ensure_operator(store, arguments.operator)


def serve_app(store: Store, arguments: argparse.Namespace) -> None:
    """`serve`."""
    from labeling.web.server import serve

    ensure_operator(store)
    idle = arguments.idle_hours * 3600
    serve(
        store, arguments.host, arguments.port, idle=idle, proxy=arguments.behind_proxy, names=arguments.name
    )


def new_project(store: Store, arguments: argparse.Namespace) -> None:
    """`project add`."""
    with store.write() as tx:
        add_project(tx, arguments.name, WHO)


def new_guideline(store: Store, arguments: argparse.Namespace) -> None:
    """`guideline add`."""
    text = read_file(arguments.file)
    with store.write() as tx:
        version = add_guideline(tx, project_id(tx, arguments.project), text, WHO)
    print(f"guideline version {version}")


def new_queue(store: Store, arguments: argparse.Namespace) -> None:
    """`queue add`."""
    with store.write() as tx:
        project, seconds = project_id(tx, arguments.project), round(arguments.lease_minutes * 60)
        kind, group = arguments.kind, arguments.group
        add_queue(tx, project, arguments.name, kind, WHO, arguments.overlap, seconds, group)


def fill_queue(store: Store, arguments: argparse.Namespace) -> None:
    """`items add`."""
    notes: list[str] = []
    try:
        candidates = read_candidates(arguments.file, notes=notes, **reading_of(arguments))
    except DataError as error:
        raise DataError(by_flags(str(error))) from None
    filling = Filling(
        arguments.role,
        arguments.sampling,
        arguments.number,
        arguments.shared,
        arguments.shared_overlap,
        arguments.repeats,
        arguments.seed,
    )
    with store.write() as tx:
        queue = queue_row(tx, arguments.project, arguments.queue)
        number = add_items(tx, queue, candidates, filling, WHO)
    long = sum(len(candidate.outputs) > MOST_OUTPUTS for candidate in candidates)
    if queue.kind == "rank" and long:
        notes.append(
            f"{plural(long, 'row', 'have')} more than {MOST_OUTPUTS} outputs: they are ranked in parts "
            "that share outputs"
        )
    print(*map(by_flags, notes), plural(number, "new item"), sep="\n")


def list_users(store: Store, _: argparse.Namespace) -> None:
    """`user list`."""
    with store.read() as tx:
        for row in people.all_users(tx):
            state = "active" if row.active and row.password else "cannot sign in"
            print(f"{row.name}\t{row.role}\t{row.group}\t{state}")


def add_user(store: Store, arguments: argparse.Namespace) -> None:
    """`user add`."""
    password = secrets.token_urlsafe(12) if arguments.random_password else ask_password()
    with store.write() as tx:
        people.add_user(tx, arguments.name, password, arguments.role, arguments.group, WHO)
    if arguments.random_password:
        print_login(arguments.name, password)


def print_token(store: Store, arguments: argparse.Namespace) -> None:
    """`user token`."""
    with store.write() as tx:
        print(people.open_session(tx, people.id_of(tx, arguments.name), TOKEN_DAYS * 24 * 3600.0))


def unlock_user(store: Store, arguments: argparse.Namespace) -> None:
    """`user unlock`."""
    with store.write() as tx:
        people.id_of(tx, arguments.name)
        forget_attempts(tx, arguments.name)


def change_user(store: Store, arguments: argparse.Namespace) -> None:
    """`user change`."""
    changes = {name: getattr(arguments, name) for name in ("role", "group", "active")}
    password = ask_password() if arguments.password else None
    with store.write() as tx:
        people.change_user(tx, arguments.name, WHO, **changes, password=password)


def export_labels(store: Store, arguments: argparse.Namespace) -> None:
    """`export`."""
    version = arguments.version
    if arguments.cut:
        with store.write() as tx:
            version = cut_version(tx, arguments.project, WHO)
        if version is None:
            raise DataError(f"project {arguments.project!r} has no labels that are in no version yet")
    folder = arguments.folder
    with store.read() as tx:
        manifest = export(tx, arguments.project, folder, arguments.format, version, arguments.since)
    for name, table in manifest["tables"].items():
        print(f"{name:16} {table['rows']}")
    print(f"version {version or '(all labels)'}, content {manifest['content_hash'][:16]}: {folder}")


def import_labels(store: Store, arguments: argparse.Namespace) -> None:
    """`import`."""
    notes: list[str] = []
    labels = read_labels(arguments.file, notes=notes, **reading_of(arguments))
    with store.write() as tx:
        try:
            project_id(tx, arguments.project)
        except DataError:
            add_project(tx, arguments.project, WHO)
        counts = store_labels(tx, arguments.project, labels, arguments.file.name, WHO, notes)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(*notes, f"{sum(counts.values())} new of {plural(len(labels), 'label')}: {kinds}", sep="\n")


def show_status(store: Store, _: argparse.Namespace) -> None:
    """`status`."""
    import sqlalchemy as sa

    from labeling.schema import projects

    with store.read() as tx:
        for project in tx.execute(sa.select(projects).order_by(projects.c.name)).all():
            print(f"{project.name}: {plural(new_labels(tx, project.name), 'label')} in no version yet")
            for row in queue_progress(tx, project.id):
                print(
                    f"  {row['name']:24} {row['kind']:8} {plural(row['items'], 'item')}, "
                    f"{plural(row['labels'], 'label')}, {row['taken']} of {row['wanted']} wanted"
                )


def ask_password() -> str:
    """A password from the terminal, without echo, or the first line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass("password: ")
    return sys.stdin.readline().rstrip("\n")


def read_file(path: Path) -> str:
    """A text file in UTF-8."""
    from rlhf.data.formats.text_files import read_text

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return read_text(path)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)
