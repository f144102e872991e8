"""Guesses of passwords are slowed down, and nobody's guesses keep anybody else out."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from label_app import PASSWORD, person
from starlette.testclient import TestClient

from labeling import people
from labeling.__main__ import main
from labeling.store import Store
from labeling.throttling import TRIES, TRIES_NAME, WINDOW, note_attempt, place_of, throttled
from labeling.web.app import create_app

SAME = {"Sec-Fetch-Site": "same-origin"}
HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def app(sqlite: Store) -> Any:
    person(sqlite, "ann", role="operator")
    person(sqlite, "bob")
    return create_app(sqlite)


def browser(app: Any, address: str) -> TestClient:
    """A browser that has never been here, at an address."""
    return TestClient(app, headers=SAME, follow_redirects=False, client=(address, 5000))


def sign_in(client: TestClient, name: str, password: str = PASSWORD) -> int:
    return client.post("/login", data={"name": name, "password": password}).status_code


def guess(client: TestClient, name: str, times: int) -> list[int]:
    return [sign_in(client, name, "wrong") for _ in range(times)]


def test_guesses_at_one_place_end(app: Any) -> None:
    assert guess(browser(app, THERE), "ann", TRIES + 1) == [401] * TRIES + [429]
    late = browser(app, THERE).post("/login", data={"name": "ann", "password": PASSWORD})
    assert late.status_code == 429
    assert 0 < int(late.headers["retry-after"]) <= WINDOW + 1


def test_wrong_guesses_elsewhere_do_not_lock_out_the_real_one(app: Any) -> None:
    guess(browser(app, THERE), "ann", TRIES + 1)
    assert sign_in(browser(app, HERE), "ann") == 303


def test_a_person_does_not_lock_out_others_of_the_same_address(app: Any) -> None:
    names = [f"name {i}" for i in range(12)]
    assert {code for name in names for code in guess(browser(app, HERE), name, TRIES)} == {401}
    assert sign_in(browser(app, HERE), "bob") == 303


def test_a_known_browser_gets_in_while_others_guess_at_its_address(app: Any) -> None:
    known = browser(app, HERE)
    assert sign_in(known, "ann") == 303
    known.post("/logout")
    guess(browser(app, HERE), "ann", TRIES + 1)
    assert sign_in(browser(app, HERE), "ann") == 429
    assert sign_in(known, "ann") == 303
    assert sign_in(known, "bob") == 303  # one browser may be known for two
    assert guess(known, "ann", TRIES + 1) == [401] * TRIES + [429]  # and is itself limited
    assert sign_in(known, "bob") == 303


def test_guesses_from_many_addresses_end_and_a_known_browser_still_gets_in(app: Any, sqlite: Store) -> None:
    known = browser(app, HERE)
    assert sign_in(known, "ann") == 303
    with sqlite.write() as tx:
        for i in range(TRIES_NAME):
            assert throttled(tx, "ann", f"198.51.100.{i}") == 0
            note_attempt(tx, "ann", f"198.51.100.{i}")
    assert sign_in(browser(app, THERE), "ann") == 429
    assert sign_in(browser(app, THERE), "bob") == 303
    assert sign_in(known, "ann") == 303


def test_the_command_line_lets_a_name_in_again(
    app: Any, sqlite: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    guess(browser(app, THERE), "ann", TRIES)
    main(["--db", sqlite.url, "user", "unlock", "ann"])
    assert sign_in(browser(app, THERE), "ann") == 303
    with pytest.raises(SystemExit):
        main(["--db", sqlite.url, "user", "unlock", "nobody"])
    assert "no active user 'nobody'" in capsys.readouterr().err


def test_a_new_password_makes_every_browser_unknown(app: Any, sqlite: Store) -> None:
    known = browser(app, HERE)
    sign_in(known, "ann")
    token = known.cookies["labeling_browser"]
    with sqlite.write() as tx:
        assert place_of(tx, "ann", HERE, token).startswith("browser ")
        assert place_of(tx, "bob", HERE, token) == HERE
        people.change_user(tx, "ann", "op", password="another long password")
        assert place_of(tx, "ann", HERE, token) == HERE


def test_a_machine_has_one_place_whatever_its_ipv6_address(sqlite: Store) -> None:
    with sqlite.read() as tx:
        places = {place_of(tx, "ann", f"2001:db8::{i}:1", None) for i in range(5)}
        assert places == {"2001:db8::/64"}
        assert place_of(tx, "ann", "::ffff:192.0.2.1", None) == HERE
        assert place_of(tx, "ann", "testclient", None) == "testclient"


def test_a_session_does_not_allow_to_guess_the_password(app: Any) -> None:
    """Whoever finds a browser signed in could otherwise try passwords without end."""
    known = browser(app, HERE)
    sign_in(known, "ann")
    form = {"old": "wrong", "new": "a new long password"}
    codes = [known.post("/account", data=form).status_code for _ in range(TRIES + 1)]
    assert codes == [400] * TRIES + [429]


def test_sign_ins_hold_up_nobody_else(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More sign-ins at once than the server has threads, none of which comes to its end."""
    waiting, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: Any) -> None:
        waiting.release()
        go_on.wait(30)

    monkeypatch.setattr(people, "check_password", slow)

    async def flood() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://testserver", headers=SAME
        ) as client:
            form = {"password": "wrong"}
            sent = [
                asyncio.create_task(client.post("/login", data={"name": f"n{i}", **form})) for i in range(60)
            ]
            try:
                await asyncio.to_thread(waiting.acquire)
                page = await asyncio.wait_for(client.get("/login"), 10)
            finally:
                go_on.set()
            await asyncio.gather(*sent)
            return page.status_code

    assert asyncio.run(flood()) == 200
