"""The label store on both databases: append-only, leases, idempotency, undo, gold, repeats, sessions."""

from __future__ import annotations

import sqlite3
import threading
import time
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import PATIENCE
from label_app import PASSWORD, answer, candidates, filled, person
from sqlalchemy.exc import DBAPIError

from benchmarks.postgres import Postgres
from labeling import people, schema
from labeling.answers import Choice
from labeling.candidates import Candidate
from labeling.items import Filling, add_items
from labeling.labels import flag, is_current, store_answer, undo
from labeling.projects import add_guideline
from labeling.queues import queue_row
from labeling.schema import APPEND_ONLY, groups, items, labels, leases
from labeling.standing import MOST_LEFT, standing
from labeling.store import Store
from labeling.versions import cut_version
from labeling.work import Gone, held, next_work
from rlhf.data.errors import DataError

END_ALL = (  # connections of clients
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
)


def test_migrations_make_the_tables_of_the_schema(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "feedback_version"})
        assert compare_metadata(context, schema.metadata) == []
    Store(store.url.replace("+psycopg", "")).close()  # opening again changes nothing


def test_the_database_itself_refuses_to_change_labels(store: Store) -> None:
    ann, queue = person(store, "ann"), filled(store, "compare", candidates(2))
    work, _ = answer(store, ann, queue, scale=2)
    with store.write() as tx:
        add_guideline(tx, 1, "Be kind.", "test")
        flag(tx, ann, work.key, "odd")
        cut_version(tx, "p", "test")
    for name in APPEND_ONLY:
        for statement in (f"DELETE FROM {name}", f"UPDATE {name} SET {_first_column(name)} = 1"):
            with pytest.raises(DBAPIError, match=f"{name} is append-only"), store.write() as tx:
                tx.execute(sa.text(statement))


def _first_column(name: str) -> str:
    return next(iter(schema.metadata.tables[name].c)).name


def test_a_label_keeps_what_was_shown(store: Store) -> None:
    ann, queue = person(store, "ann", group="expert"), filled(store, "compare", candidates(1))
    with store.write() as tx:
        add_guideline(tx, 1, "First.", "test")
        add_guideline(tx, 1, "Second.", "test")
    work, label = answer(store, ann, queue, scale=2)  # the left is much better
    with store.read() as tx:
        row = tx.execute(sa.select(labels).where(labels.c.id == label)).one()
        item = tx.execute(sa.select(items)).one()
    assert work.texts == [item.outputs[index] for index in row.shown_order]
    assert row.answer["ranking"][row.shown_order[0]] == 1
    assert row.answer["ranking"][row.shown_order[1]] == 2
    assert (row.strength, row.labeler_group, row.guideline_version) == (7, "expert", "2")
    assert (row.content_hash, row.revision, row.supersedes) == (item.content_hash, 1, None)
    assert 0 <= row.seconds < 60


def test_the_same_form_twice_is_one_label(store: Store) -> None:
    ann, queue = person(store, "ann"), filled(store, "vote", candidates(2, outputs=1))
    work = next_work(store, ann, queue)
    assert work
    numbers = set()

    def send() -> None:
        with store.write() as tx:
            numbers.add(store_answer(tx, ann, work.key, Choice(vote="up")))

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 1
    with store.read() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(labels)) == 1
        assert tx.scalars(sa.select(items.c.taken).order_by(items.c.taken)).all() == [0, 1]


def test_many_people_at_once_never_get_one_item(store: Store) -> None:
    crew = [person(store, f"p{i}") for i in range(8)]
    queue = filled(store, "compare", candidates(40), overlap=2)
    failures: list[BaseException] = []

    def work_through(user: people.User) -> None:
        try:
            while work := next_work(store, user, queue):
                with store.write() as tx:
                    store_answer(tx, user, work.key, Choice(scale=4))
        except BaseException as error:  # a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=work_through, args=[user]) for user in crew]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with store.read() as tx:
        counts = tx.execute(
            sa.select(sa.func.count(), sa.func.count(labels.c.user_id.distinct())).group_by(labels.c.item_id)
        ).all()
        assert [tuple(row) for row in counts] == [(2, 2)] * 40
        assert set(tx.scalars(sa.select(items.c.taken))) == {2}


def test_writes_that_wait_share_a_commit_and_fail_alone(store: Store) -> None:
    first, arrived = threading.Event(), threading.Barrier(5)
    results: dict[int, Any] = {}

    def work(number: int, tx: sa.Connection) -> int:
        if number == 0:  # holds the turn until all others wait for it
            first.set()
            arrived.wait(PATIENCE)
            end = time.monotonic() + PATIENCE
            while store.sqlite and len(store._group.waiting) < 4 and time.monotonic() < end:
                time.sleep(0.01)
        tx.execute(groups.insert().values(name=f"g{number}"))
        if number == 2:
            raise DataError("no")
        return number

    def run(number: int) -> None:
        if number:
            first.wait(PATIENCE)
            arrived.wait(PATIENCE)
        try:
            results[number] = store.together(partial(work, number))
        except DataError as error:
            results[number] = str(error)

    commits = []
    sa.event.listen(store.engine, "commit", lambda _: commits.append(1))
    threads = [threading.Thread(target=run, args=[number]) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: 0, 1: 1, 2: "no", 3: 3, 4: 4}
    assert len(commits) == (2 if store.sqlite else 4)  # on PostgreSQL each its own
    with store.read() as tx:
        assert set(tx.scalars(sa.select(groups.c.name))) == {"g0", "g1", "g3", "g4"}


def test_a_commit_that_fails_fails_for_all_who_share_it(sqlite: Store) -> None:
    def ends_it_all(tx: sa.Connection) -> None:
        tx.execute(groups.insert().values(name="g"))
        tx.connection.rollback()  # as SQLite does by itself when the disk is full

    with pytest.raises(sqlite3.OperationalError, match="savepoint"):
        sqlite.together(ends_it_all)
    assert sqlite.together(lambda tx: tx.scalar(sa.select(sa.func.count()).select_from(groups))) == 0


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_restart_of_postgresql_between_two_requests_goes_unnoticed(
    store: Store, postgres: Postgres
) -> None:
    with store.read() as tx:
        before = tx.scalar(sa.text("SELECT pg_backend_pid()"))
    postgres.execute(f"SELECT pg_terminate_backend({before}, 5000)")
    with store.read() as tx:
        assert tx.scalar(sa.text("SELECT pg_backend_pid()")) != before
    postgres.execute(END_ALL)
    with store.write() as tx:
        tx.execute(groups.insert().values(name="g"))
    with store.read() as tx:
        assert "g" in set(tx.scalars(sa.select(groups.c.name)))


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_what_write_returned_for_is_on_the_disk_of_postgresql(store: Store) -> None:
    end, on_disk = "SELECT pg_current_wal_insert_lsn()", "SELECT pg_current_wal_flush_lsn() > :end"
    with store.read() as tx:
        (mode,) = tx.execute(sa.text("SHOW synchronous_commit")).one()
    assert mode == "off"  # so that only the flush can have done it
    for number in range(20):
        with store.write() as tx:
            tx.execute(groups.insert().values(name=f"g{number}"))
            before_commit = tx.scalar(sa.text(end))
        with store.read() as tx:
            assert tx.scalar(sa.text(on_disk), {"end": before_commit})


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_those_who_wait_for_the_disk_of_postgresql_share_its_work(store: Store) -> None:
    def write(number: int) -> None:
        with store.write() as tx:
            tx.execute(groups.insert().values(name=f"g{number}"))

    flusher, flushes = store._flusher, []
    assert flusher
    before = flusher._committed
    execute = flusher._connection.execute
    flusher._connection.execute = lambda statement: (flushes.append(statement), execute(statement))
    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    with flusher._turn:  # as if the disk were at work
        for thread in threads:
            thread.start()
        end = time.monotonic() + PATIENCE
        while flusher._committed < before + len(threads) and time.monotonic() < end:
            time.sleep(0.01)
        assert store.engine.pool.checkedout() == 0  # four connections were enough for all eight
    for thread in threads:
        thread.join()
    assert len(flushes) == 1


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_write_is_not_acknowledged_by_a_flush_of_another_server_life(
    store: Store, postgres: Postgres
) -> None:
    flusher = store._flusher
    assert flusher
    postgres.execute(END_ALL)  # as a crash does, after which commits may be lost
    with pytest.raises(psycopg.OperationalError):
        flusher.flush()
    with store.write() as tx:
        tx.execute(groups.insert().values(name="h"))


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_page_reads_as_little_of_a_long_queue_as_of_a_short_one(store: Store) -> None:
    ann, made = person(store, "ann"), candidates(2000, outputs=1)
    queue = filled(store, "vote", made[:1500])
    with store.write() as tx:
        tx.execute(items.update().values(taken=1))  # what is open comes last in the table
        add_items(tx, queue_row(tx, "p", "vote"), made[1500:], Filling(), "test")
        tx.execute(sa.text("ANALYZE items"))
    read = sa.text(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'items'"
    )
    with store.read() as tx:
        for _ in range(7):  # the driver prepares a statement when it runs for the sixth time
            standing(tx, ann, queue)
        before = tx.scalar(read)
        standing(tx, ann, queue)
        assert tx.scalar(read) - before == MOST_LEFT


def test_an_item_comes_back_when_its_lease_ran_out_and_late_work_is_kept(store: Store) -> None:
    ann, bob = person(store, "ann"), person(store, "bob")
    queue = filled(store, "vote", candidates(1, outputs=1))
    late = next_work(store, ann, queue)
    assert late
    assert next_work(store, bob, queue) is None
    with store.write() as tx:
        tx.execute(leases.update().values(expires=time.time() - 1))
    work, _ = answer(store, bob, queue, vote="down")
    assert work.item_id == late.item_id
    with store.write() as tx:
        store_answer(tx, ann, late.key, Choice(vote="up"))
    with store.read() as tx:
        assert tx.scalar(sa.select(sa.func.count()).where(is_current())) == 2
        assert tx.scalar(sa.select(items.c.taken)) == 2


def test_undo_supersedes_and_hands_the_item_back(store: Store) -> None:
    ann, queue = person(store, "ann"), filled(store, "compare", candidates(3))
    first, label = answer(store, ann, queue, scale=1)
    next_work(store, ann, queue)
    with store.write() as tx:
        undo(tx, ann, label)
    with store.write() as tx:
        undo(tx, ann, label)  # twice is once
    again = next_work(store, ann, queue)
    assert again
    assert (again.item_id, again.shown_order) == (first.item_id, first.shown_order)
    with store.write() as tx:
        new = store_answer(tx, ann, again.key, Choice(scale=9))
    with store.read() as tx:
        rows = tx.execute(sa.select(labels).order_by(labels.c.id)).all()
        assert [(row.status, row.revision) for row in rows] == [("given", 1), ("undone", 2), ("given", 3)]
        assert [row.supersedes for row in rows] == [None, label, rows[1].id]
        assert tx.scalars(sa.select(labels.c.id).where(is_current())).all() == [new]
        assert standing(tx, ann, queue)[-3:] == (1, new, 1)  # done, last, left
    bob = person(store, "bob")
    with pytest.raises(Gone), store.write() as tx:
        undo(tx, bob, new)


def test_an_answer_under_an_older_lease_supersedes_too(sqlite: Store) -> None:
    ann, queue = person(sqlite, "ann"), filled(sqlite, "vote", candidates(1, outputs=1))
    old = next_work(sqlite, ann, queue)
    assert old
    with sqlite.write() as tx:
        tx.execute(leases.update().values(expires=time.time() - 1))
    _, first = answer(sqlite, ann, queue, vote="up")
    with sqlite.write() as tx:
        second = store_answer(tx, ann, old.key, Choice(vote="down"))
    with sqlite.read() as tx:
        assert tx.scalars(sa.select(labels.c.id).where(is_current())).all() == [second]
    with pytest.raises(DataError, match="newer label"), sqlite.write() as tx:
        undo(tx, ann, first)


def test_a_skip_needs_a_reason_and_frees_the_item(store: Store) -> None:
    ann, bob = person(store, "ann"), person(store, "bob")
    queue = filled(store, "vote", candidates(1, outputs=1))
    work = next_work(store, ann, queue)
    assert work
    with pytest.raises(DataError, match="why"), store.write() as tx:
        store_answer(tx, ann, work.key, None)
    with store.write() as tx:
        store_answer(tx, ann, work.key, None, note="Not my field")
    assert next_work(store, ann, queue) is None
    assert next_work(store, bob, queue) is not None


def test_skip_and_undo_keep_the_count(store: Store) -> None:
    ann, queue = person(store, "ann"), filled(store, "vote", candidates(1, outputs=1))
    work = next_work(store, ann, queue)
    assert work
    with store.write() as tx:
        label = store_answer(tx, ann, work.key, None, note="Other")
    with store.write() as tx:
        undo(tx, ann, label)
    answer(store, ann, queue, vote="up")
    with store.read() as tx:
        assert tx.scalar(sa.select(items.c.taken)) == 1


def test_onboarding_comes_first_gold_is_scored_and_repeats_come_back(sqlite: Store) -> None:
    ann, bob = person(sqlite, "ann"), person(sqlite, "bob")
    queue = filled(sqlite, "compare", candidates(10), repeats=1.0, seed=1)
    known = [
        Candidate(f"{role} {i}", ("good", "bad"), ("", ""), expected={"ranking": [1, 2]}, explanation="why")
        for role in ("gold", "onboarding")
        for i in range(2)
    ]
    with sqlite.write() as tx:
        row = queue_row(tx, "p", "compare")
        add_items(tx, row, known[:2], Filling("gold", seed=2), "test")
        add_items(tx, row, known[2:], Filling("onboarding"), "test")
    roles, first = [], {}
    while work := next_work(sqlite, ann, queue):
        roles.append(work.role)
        best = min(range(2), key=lambda j: work.texts[j] != "good")  # else: the left
        if work.role == "repeat":
            best = work.texts.index(first[work.prompt])
        first.setdefault(work.prompt, work.texts[best])
        with sqlite.write() as tx:
            store_answer(tx, ann, work.key, Choice(scale=1 if best == 0 else 9))
    assert roles[:2] == ["onboarding"] * 2
    assert sorted(roles[2:]) == ["gold"] * 2 + ["repeat"] * 10 + ["work"] * 10
    with sqlite.read() as tx:
        scores = sa.select(items.c.role, labels.c.correct).join(labels).where(items.c.role != "work")
        assert {tuple(row) for row in tx.execute(scores)} == {("gold", 1), ("onboarding", 1), ("repeat", 1)}
    seen = []
    while work := next_work(sqlite, bob, queue):
        seen.append(work.role)
        with sqlite.write() as tx:
            store_answer(tx, bob, work.key, Choice(scale=9))
    assert seen == ["onboarding"] * 2 + ["gold"] * 2  # no repeat of what he never labeled


def test_sessions_end_and_passwords_are_not_stored(store: Store) -> None:
    ann = person(store, "ann")
    with store.write() as tx:
        token = people.open_session(tx, ann.id, lasts=60)
        assert PASSWORD not in repr(tx.execute(sa.select(schema.users)).all())
        assert token not in repr(tx.execute(sa.select(schema.sessions)).all())
        assert people.check_password(tx, "ann", PASSWORD) == ann.id
        assert people.check_password(tx, "ann", PASSWORD + "x") is None
        assert people.check_password(tx, "nobody", PASSWORD) is None
        session = people.user_of(tx, token)
        assert session
        assert session[0] == ann
        tx.execute(schema.sessions.update().values(seen=time.time() - 100))
        assert people.user_of(tx, token, idle=50) is None
        tx.execute(schema.sessions.update().values(seen=time.time(), expires=time.time() - 1))
        assert people.user_of(tx, token) is None


def test_switching_a_user_off_ends_the_sessions(sqlite: Store) -> None:
    ann, op = person(sqlite, "ann"), person(sqlite, "op", role="operator")
    with sqlite.write() as tx:
        token = people.open_session(tx, ann.id)
        people.change_user(tx, "ann", "op", active=False)
        assert people.user_of(tx, token) is None
        assert people.check_password(tx, "ann", PASSWORD) is None
        with pytest.raises(DataError, match="last operator"):
            people.change_user(tx, op.name, "op", role="labeler")
        with pytest.raises(DataError, match="at least 10"):
            people.add_user(tx, "cat", "short", "labeler", "g")


def test_held_is_nothing_after_an_answer(sqlite: Store) -> None:
    ann, queue = person(sqlite, "ann"), filled(sqlite, "vote", candidates(2, outputs=1))
    answer(sqlite, ann, queue, vote="up")
    with sqlite.read() as tx:
        assert held(tx, ann, queue) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "no database URL"),
        ("mysql://x@y/z", "SQLite or PostgreSQL"),
        ("postgresql://nobody@127.0.0.1:1/x", "cannot open"),
    ],
)
def test_a_wrong_url_is_one_line(url: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        Store(url)
    assert "\n" not in str(caught.value)
