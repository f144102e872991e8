"""The label store and the labeling app on the command line: `python -m labeling --help`."""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import sys
from pathlib import Path

from labeling import exports, imports, people, progress
from labeling import items as items_
from labeling import projects as projects_
from labeling.address import store_address
from labeling.schema import KINDS, ROLES
from labeling.store import Store
from rlhf.data.errors import DataError

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
    """The commands and their arguments."""
    top = argparse.ArgumentParser(
        prog="python -m labeling",
        description="Label store and labeling app: who preferred what, when, under which guideline.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--db", metavar="URL", help="the store's database")
    top.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    one = verbs.add_parser("init", help="make or upgrade the store, and a first operator if there is none")
    one.add_argument("--operator", default="operator", metavar="NAME", help="the first operator's name")

    one = verbs.add_parser("serve", help="start the labeling app")
    one.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    one.add_argument("--port", type=int, default=8600, help="port (default 8600; 0 takes a free one)")
    one.add_argument("--idle-hours", type=float, default=12.0, help="a session ends after this long unused")
    one.add_argument("--name", action="append", default=[], help="another host name of this server")
    one.add_argument("--behind-proxy", action="store_true", help="trust X-Forwarded-For and -Proto")

    user = verbs.add_parser("user", help="add, change or list people").add_subparsers(
        dest="action", required=True
    )
    one = user.add_parser("add", help="add a user; the password is asked for, or read from standard input")
    one.add_argument("name")
    one.add_argument("--role", choices=ROLES, default="labeler")
    one.add_argument("--group", default="labelers")
    one.add_argument("--random-password", action="store_true", help="make a password and print it once")
    one = user.add_parser("change", help="change role, group, password, or switch a user off or on")
    one.add_argument("name")
    one.add_argument("--role", choices=ROLES)
    one.add_argument("--group")
    one.add_argument("--password", action="store_true", help="ask for a new password")
    one.add_argument("--off", dest="active", action="store_const", const=False, help="may not sign in")
    one.add_argument("--on", dest="active", action="store_const", const=True)
    one = user.add_parser("token", help="print a token for programs (Authorization: Bearer ...)")
    one.add_argument("name")
    user.add_parser("list", help="list users")

    project = verbs.add_parser("project", help="add a project").add_subparsers(dest="action", required=True)
    project.add_parser("add").add_argument("name")

    guideline = verbs.add_parser("guideline", help="add a guideline's next version").add_subparsers(
        dest="action", required=True
    )
    one = guideline.add_parser("add")
    one.add_argument("project")
    one.add_argument("file", type=Path)

    queue = verbs.add_parser("queue", help="add a queue").add_subparsers(dest="action", required=True)
    one = queue.add_parser("add")
    one.add_argument("project")
    one.add_argument("name")
    one.add_argument("--kind", choices=KINDS, required=True)
    one.add_argument("--overlap", type=int, default=1, help="labels an item (default 1)")
    one.add_argument("--lease-minutes", type=float, default=30.0, help="time to answer an item")
    one.add_argument("--group", help="only this group may work here")

    things = verbs.add_parser("items", help="fill a queue from a file").add_subparsers(
        dest="action", required=True
    )
    one = things.add_parser(
        "add",
        description="Columns: prompt and completions (or output), optionally policies, reference, ranking, "
        "scores, split, source, expected and explanation. The comparisons of `collect` fit as they are.",
    )
    one.add_argument("project")
    one.add_argument("queue")
    one.add_argument("file", type=Path)
    one.add_argument("--role", choices=("work", "gold", "onboarding"), default="work")
    one.add_argument("--sampling", choices=items_.SAMPLINGS, default="all")
    one.add_argument("--number", type=int, help="items to draw")
    one.add_argument("--shared", type=float, default=0.0, help="share that goes to the shared pool")
    one.add_argument("--shared-overlap", type=int, default=3, help="labels an item of the pool")
    one.add_argument("--repeats", type=float, default=0.0, help="share that comes back, hidden")
    one.add_argument("--seed", type=int, default=0)

    one = verbs.add_parser("export", help="write a project's labels to a folder, in the data contracts")
    one.add_argument("project")
    one.add_argument("folder", type=Path)
    one.add_argument("--format", choices=exports.FORMATS, default="parquet")
    one.add_argument("--cut", action="store_true", help="first put all new labels into a new version")
    one.add_argument("--version", type=int, help="labels up to this version (with --cut: the new one)")
    one.add_argument("--since", type=int, default=0, help="leave out labels up to this version")

    one = verbs.add_parser("import", help="read labels: contracts, Argilla, Label Studio, qa-feedback")
    one.add_argument("project", help="made if it is new")
    one.add_argument("file", type=Path)
    one.add_argument("--prompt-field", help="the field of a record that is the prompt")
    one.add_argument("--output-fields", default="", help="the fields that are outputs, with commas")

    verbs.add_parser("status", help="projects, queues, labels, and how many are in no version yet")
    return top


def main(words: list[str] | None = None) -> None:
    """Run a command; an expected error ends in one line and exit code 1."""
    arguments = parser().parse_args(words)
    try:
        run(arguments)
    except DataError as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def run(given: argparse.Namespace) -> None:
    """What the parsed command says."""
    url = given.db or store_address()
    if given.verb == "init":
        print_login(first_operator(Store(url), given.operator), given.operator)
        return
    store = Store(url, create=given.verb == "serve")
    if given.verb == "serve":
        from labeling.web.server import serve

        print_login(first_operator(store), "operator")
        idle = given.idle_hours * 3600
        serve(store, given.host, given.port, idle=idle, proxy=given.behind_proxy, names=given.name)
    elif given.verb == "user":
        user(store, given)
    elif given.verb == "export":
        export(store, given)
    elif given.verb == "status":
        status(store)
    elif given.verb == "import":
        fields = imports.Fields(given.prompt_field, tuple(filter(None, given.output_fields.split(","))))
        notes: list[str] = []
        rows = imports.read_labels(given.file, fields, notes)
        with store.write() as tx:
            try:
                projects_.project_id(tx, given.project)
            except DataError:
                projects_.add_project(tx, given.project, WHO)
            counts = imports.import_labels(tx, given.project, rows, given.file.name, WHO)
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        print(*notes, f"{sum(counts.values())} new of {len(rows)} labels: {said}", sep="\n")
    else:
        add(store, given)


def add(store: Store, given: argparse.Namespace) -> None:
    """`project add`, `guideline add`, `queue add`, `items add`."""
    if given.verb == "project":
        with store.write() as tx:
            projects_.add_project(tx, given.name, WHO)
    elif given.verb == "guideline":
        text = read_file(given.file)
        with store.write() as tx:
            version = projects_.add_guideline(tx, projects_.project_id(tx, given.project), text, WHO)
        print(f"guideline version {version}")
    elif given.verb == "queue":
        with store.write() as tx:
            project, seconds = projects_.project_id(tx, given.project), round(given.lease_minutes * 60)
            projects_.add_queue(tx, project, given.name, given.kind, WHO, given.overlap, seconds, given.group)
    else:
        candidates = items_.read_candidates(given.file)
        filling = items_.Filling(
            given.role,
            given.sampling,
            given.number,
            given.shared,
            given.shared_overlap,
            given.repeats,
            given.seed,
        )
        with store.write() as tx:
            row = projects_.queue_row(tx, given.project, given.queue)
            number = items_.add_items(tx, row, candidates, filling, WHO)
        print(f"{number} new items")


def user(store: Store, given: argparse.Namespace) -> None:
    """`user add`, `user change`, `user token`, `user list`."""
    if given.action == "list":
        import sqlalchemy as sa

        from labeling.schema import groups, users

        with store.read() as tx:
            chosen = sa.select(users, groups.c.name.label("group")).join(groups).order_by(users.c.name)
            for row in tx.execute(chosen):
                state = "active" if row.active and row.password else "cannot sign in"
                print(f"{row.name}\t{row.role}\t{row.group}\t{state}")
    elif given.action == "add":
        new = secrets.token_urlsafe(12) if given.random_password else ask_password()
        with store.write() as tx:
            people.add_user(tx, given.name, new, given.role, given.group, WHO)
        if given.random_password:
            print_login(new, given.name)
    elif given.action == "token":
        with store.write() as tx:
            print(people.open_session(tx, people.id_of(tx, given.name), TOKEN_DAYS * 24 * 3600.0))
    else:
        password = ask_password() if given.password else None
        with store.write() as tx:
            people.change_user(
                tx,
                given.name,
                WHO,
                role=given.role,
                group=given.group,
                active=given.active,
                password=password,
            )


def export(store: Store, given: argparse.Namespace) -> None:
    """`export`."""
    version = given.version
    if given.cut:
        with store.write() as tx:
            version = exports.cut(tx, given.project, WHO)
        if version is None:
            raise DataError(f"project {given.project!r} has no labels that are in no version yet")
    with store.read() as tx:
        manifest = exports.export(tx, given.project, given.folder, given.format, version, given.since)
    for name, table in manifest["tables"].items():
        print(f"{name:16} {table['rows']}")
    print(f"version {version or '(all labels)'}, content {manifest['content_hash'][:16]}: {given.folder}")


def status(store: Store) -> None:
    """`status`."""
    import sqlalchemy as sa

    from labeling.schema import projects

    with store.read() as tx:
        for project in tx.execute(sa.select(projects).order_by(projects.c.name)).all():
            print(f"{project.name}: {exports.new_labels(tx, project.name)} labels in no version yet")
            for row in progress.queue_progress(tx, project.id):
                print(
                    f"  {row['name']:24} {row['kind']:8} {row['items']} items, {row['labels']} labels, "
                    f"{row['taken']} of {row['wanted']} wanted"
                )


def first_operator(store: Store, name: str = "operator") -> str | None:
    """Make an operator with a random password if there is none; the password, or None."""
    with store.write() as tx:
        if people.has_operator(tx):
            return None
        password = secrets.token_urlsafe(12)
        people.add_user(tx, name, password, "operator", "operators", WHO)
        return password


def print_login(password: str | None, name: str) -> None:
    """Print a new password, the only time it is shown."""
    if password:
        print(f"sign in as {name!r} with the password {password}  (shown once; change it under 'My account')")


def ask_password() -> str:
    """A password from the terminal, without echo, or the first line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass("password: ")
    return sys.stdin.readline().rstrip("\n")


def read_file(path: Path) -> str:
    """A text file in UTF-8."""
    from rlhf.data.text_files import read_text

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return read_text(path)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)
