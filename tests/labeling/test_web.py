"""The app over HTTP without a browser: roles of every route, cross-site requests, sessions, API, fuzzing."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
import zipfile
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from label_app import PASSWORD, candidates, filled, person
from schemathesis.checks import not_a_server_error
from starlette.routing import Mount
from starlette.testclient import TestClient

from labeling import people
from labeling.candidates import Candidate
from labeling.contracts import tables
from labeling.items import Filling, add_items
from labeling.queues import queue_row
from labeling.schema import items, labels, sessions
from labeling.standing import MOST_LEFT
from labeling.store import Store
from labeling.web import operating
from labeling.web.app import create_app
from labeling.web.pages import sentence, shown
from labeling.web.security import COOKIE
from rlhf.data.errors import DataError

SAME = {"Sec-Fetch-Site": "same-origin"}
HOST = "http://testserver"


class Model:
    """A served model that says its version and the prompt."""

    version = "m/1"
    chat = False

    def __call__(self, prompt: str, n: int) -> list[str]:
        if prompt == "fail":
            raise DataError("no model is @champion yet")
        return [f"{self.version} says {i}: {prompt}" for i in range(n)]


@pytest.fixture
def app(sqlite: Store) -> Any:
    return create_app(sqlite, Model())


@pytest.fixture
def clients(app: Any, sqlite: Store) -> dict[str, TestClient]:
    """Clients by who is signed in: anonymous, labeler, operator."""
    by_role = {who: TestClient(app, headers=SAME, follow_redirects=False) for who in ("anonymous", "stale")}
    by_role["stale"].cookies.set(COOKIE, "a session that has ended")
    for role in ("labeler", "operator"):
        user = person(sqlite, role, role=role)
        by_role[role] = TestClient(app, headers=SAME, follow_redirects=False)
        with sqlite.write() as tx:
            by_role[role].cookies.set(COOKIE, people.open_session(tx, user.id))
    return by_role


# path -> who may use it; a path that is not here fails the test below
PUBLIC = {("get", "/login"), ("post", "/login"), ("get", "/api/health")}
LATE = {("post", "/work/{queue}"), ("post", "/api/labels")}
OPERATOR = re.compile(r"^/(operate|openapi\.json)")


def routes(app: Any) -> list[tuple[str, str]]:
    described = app.openapi()["paths"]
    return [(method, path) for path, methods in described.items() for method in methods]


def test_every_route_has_its_role(app: Any, clients: dict[str, TestClient], sqlite: Store) -> None:
    filled(sqlite, "compare", candidates(2))
    known = routes(app)
    assert len(known) > 35
    assert [route.path for route in app.routes if isinstance(route, Mount)] == ["/static"]
    for method, path in known:
        url = re.sub(r"{(queue|project|label)}", "1", path).replace("{key}", "none")
        for who, client in clients.items():
            # signing out would end the session that the rest of the test needs
            if (method, path, who) != ("post", "/logout", who) or who == "anonymous":
                status = client.request(method, url).status_code
            else:
                continue
            where = f"{method} {path} as {who}: {status}"
            if (method, path) in PUBLIC:
                assert status in (200, 422), where
            elif who in ("anonymous", "stale"):
                expected = 303 if method == "get" and not path.startswith("/api") else 401
                # what takes an answer reads its form before it looks up the session
                late = who == "stale" and (method, path) in LATE
                assert status == (422 if late else expected), where
            elif OPERATOR.match(path) and who == "labeler":
                assert status == 403, where
            else:
                assert status not in (401, 403), where
                assert status < 500, where


def test_unsafe_requests_from_elsewhere_are_refused(clients: dict[str, TestClient], app: Any) -> None:
    cookie = {COOKIE: clients["operator"].cookies[COOKIE]}

    def post(**headers: str) -> int:
        client = TestClient(app, follow_redirects=False, cookies=cookie)
        return client.post("/operate/projects", data={"name": "x"}, headers=headers).status_code

    assert post() == 403  # says nothing about where it comes from
    assert post(**{"Sec-Fetch-Site": "cross-site"}) == 403
    assert post(**{"Sec-Fetch-Site": "same-site"}) == 403
    assert post(**{"Sec-Fetch-Site": "cross-site", "Origin": HOST}) == 403
    assert post(Origin="http://elsewhere") == 403
    assert post(Origin="null") == 403
    assert post(Origin=HOST) == 303
    assert post(**{"Sec-Fetch-Site": "same-origin"}) == 400  # the project is there now
    assert post(**{"Authorization": "Bearer nonsense"}) == 401  # the cookie does not count


def test_a_request_has_a_length_and_a_limit(clients: dict[str, TestClient]) -> None:
    client = clients["operator"]
    big = client.post("/ask", content=b"x", headers={"Content-Length": str(10**10)})
    assert big.status_code == 413
    assert client.post("/ask", content=iter([b"x"])).status_code == 411


def test_headers_of_every_answer(clients: dict[str, TestClient]) -> None:
    for path in ("/login", "/nothing", "/static/style.css", "/api/health"):
        headers = clients["anonymous"].get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"


def test_signing_in_and_out(app: Any, sqlite: Store) -> None:
    person(sqlite, "ann")
    client = TestClient(app, headers=SAME, follow_redirects=False)
    wrong = client.post("/login", data={"name": "ann", "password": "wrong"})
    assert wrong.status_code == 401
    right = client.post("/login", data={"name": "ann", "password": PASSWORD, "to": "//evil.example"})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert client.get("/").status_code == 200
    token = client.cookies[COOKIE]
    assert client.post("/logout").status_code == 303
    client.cookies.set(COOKIE, token)
    assert client.get("/").headers["location"] == "/login?to=/"


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", "x", "//["]
)
def test_signing_in_leads_nowhere_else(to: str, app: Any, sqlite: Store) -> None:
    person(sqlite, "ann")
    client = TestClient(app, headers=SAME, follow_redirects=False)
    done = client.post("/login", data={"name": "ann", "password": PASSWORD, "to": to})
    assert done.headers["location"] == "/"


def test_an_error_leads_back_but_never_elsewhere(clients: dict[str, TestClient]) -> None:
    for before, back in (
        (f"{HOST}/operate/labeler?name=a%20b", "/operate/labeler?name=a%20b"),
        ("http://elsewhere.example/operate", "/"),
        (f"{HOST}//elsewhere.example", "/"),
        ("http://[", "/"),
    ):
        origin = {"Referer": before}
        refused = clients["operator"].post("/operate/projects", data={"name": "p"}, headers=origin)
        assert refused.status_code == 400
        assert f'<a href="{back}">' in refused.text
        ended = clients["stale"].post("/work/1", data={"key": "k"}, headers=origin)
        assert ended.status_code == 401
        assert re.findall('href="/login[?]to=([^"]*)"', ended.text) == [quote(back)]


@pytest.mark.parametrize(
    ("kind", "answer", "order", "strength", "words"),
    [
        ("compare", {"ranking": [1, 2], "both_bad": False}, [0, 1], 7, "left better, strength 7 of 9"),
        ("compare", {"ranking": [1, 2], "both_bad": False}, [1, 0], None, "right better"),
        ("compare", {"ranking": [1, 1], "both_bad": True}, [1, 0], None, "both bad"),
        ("compare", {"ranking": [1, 1], "both_bad": False}, [1, 0], 1, "no difference"),
        ("compare", {"ranking": [2, 1], "both_bad": False}, [], None, "right better"),  # imported
        ("rank", {"ranking": [2, None, 1]}, [2, 0, 1], None, "A 1, B 2, C –"),
        ("judge", {"preferred": "reference"}, [1, 0], None, "left better"),
        ("judge", {"preferred": "tie"}, [1, 0], None, "no difference"),
        ("vote", {"vote": "up"}, [0], None, "good"),
        ("edit", {"text": "a text"}, [0], None, "edited: a text"),
    ],
)
def test_a_label_in_the_words_of_the_screen(
    kind: str, answer: Any, order: list[int], strength: int | None, words: str
) -> None:
    label = SimpleNamespace(kind=kind, answer=answer, shown_order=order, strength=strength)
    label.status, label.note = "given", ""
    assert shown(label) == words
    label.status, label.note = "skipped", "I cannot tell"
    assert shown(label) == "skipped: I cannot tell"


def test_messages_are_sentences_and_names_stay_names() -> None:
    assert sentence("there is no such page") == "There is no such page."
    assert sentence("x.jsonl: row 1: no prompt") == "x.jsonl: row 1: no prompt."


def test_a_session_ends_by_itself(clients: dict[str, TestClient], sqlite: Store) -> None:
    client = clients["labeler"]
    assert client.get("/").status_code == 200
    with sqlite.write() as tx:
        tx.execute(sessions.update().values(seen=time.time() - people.SESSION_IDLE - 1))
    assert client.get("/").status_code == 303
    assert client.get("/api/queues").status_code == 401


def test_a_form_stores_the_label_and_a_second_sending_does_not(
    clients: dict[str, TestClient], sqlite: Store
) -> None:
    queue = filled(sqlite, "rank", candidates(2, outputs=3))
    client = clients["labeler"]
    text = client.get(f"/work/{queue}").text
    assert "policy0" not in text  # blind
    key = re.search(r'name="key" value="([^"]+)"', text)
    assert key
    form = {"key": key[1], "rank_0": "2", "rank_1": "", "rank_2": "1"}
    after = {key_in(client.post(f"/work/{queue}", data=form).text) for _ in range(2)}
    assert after == {key_of(client, queue)}  # the next item's, whose page is the answer
    assert client.post(f"/work/{queue}", data=form | {"key": "other"}).status_code == 404
    with sqlite.read() as tx:
        [row] = tx.execute(sa.select(labels)).all()
    shown = [row.answer["ranking"][index] for index in row.shown_order]
    assert shown == [2, None, 1]
    bad = client.post(f"/work/{queue}", data={"key": key_of(client, queue), "rank_0": "1"})
    assert bad.status_code == 400
    assert "Rank at least two outputs, or skip." in bad.text


def key_of(client: TestClient, queue: int) -> str:
    return key_in(client.get(f"/work/{queue}").text)


def key_in(page: str) -> str:
    match = re.search(r'name="key" value="([^"]+)"', page)
    assert match
    return match[1]


def test_what_is_counted_no_further_is_not_counted_down(
    clients: dict[str, TestClient], sqlite: Store
) -> None:
    queue = filled(sqlite, "vote", candidates(MOST_LEFT + 2, 1))
    for _ in range(2):
        assert "0 done, 50+ left" in clients["labeler"].get(f"/work/{queue}").text


def test_onboarding_is_told_at_once(clients: dict[str, TestClient], sqlite: Store) -> None:
    queue = filled(sqlite, "vote", candidates(1, outputs=1))
    known = [Candidate("p", ("bad answer",), ("",), expected={"vote": "down"}, explanation="It is rude.")]
    with sqlite.write() as tx:
        add_items(tx, queue_row(tx, "p", "vote"), known, Filling("onboarding"), "test")
    client = clients["labeler"]
    done = client.post(f"/work/{queue}", data={"key": key_of(client, queue), "vote": "up"})
    told = client.get(done.headers["location"])
    assert "Not quite" in told.text
    assert "It is rude." in told.text
    assert clients["operator"].get(done.headers["location"]).status_code == 404  # somebody else's


def test_a_group_has_its_own_queue(clients: dict[str, TestClient], sqlite: Store) -> None:
    queue = filled(sqlite, "vote", candidates(1, outputs=1))
    form = {"overlap": "1", "lease_minutes": "5", "group": "experts", "active": "true"}
    assert clients["operator"].post(f"/operate/queues/{queue}", data=form).status_code == 303
    assert clients["labeler"].get(f"/work/{queue}").status_code == 404
    assert "vote" not in clients["labeler"].get("/").text


def test_an_operator_fills_a_queue_and_takes_the_labels_home(
    clients: dict[str, TestClient], sqlite: Store
) -> None:
    operator, labeler = clients["operator"], clients["labeler"]
    operator.post("/operate/projects", data={"name": "news"})
    operator.post("/operate/projects/2/guideline", data={"text": "Be kind."})
    operator.post("/operate/projects/2/queues", data={"name": "q", "kind": "compare"})
    rows = "".join(json.dumps({"prompt": f"p{i}", "completions": ["a", "b"]}) + "\n" for i in range(4))
    form = {"sampling": "random", "number": "2", "shared": "0", "repeats": "0"}
    done = operator.post("/operate/queues/1/items", data=form, files={"file": ("x.jsonl", rows)})
    assert done.status_code == 303
    bad = operator.post("/operate/queues/1/items", files={"file": ("x.jsonl", '{"prompt": "p"}')})
    assert bad.status_code == 400
    assert "x.jsonl: row 1" in bad.text
    with sqlite.read() as tx:
        assert set(tx.scalars(sa.select(items.c.propensity))) == {0.5}
    labeler.post("/work/1", data={"key": key_of(labeler, 1), "scale": "1"})
    assert "Version 1" in operator.get("/operate/projects/2").text
    assert operator.post("/operate/projects/2/cut").status_code == 303
    zips = [operator.get("/operate/projects/2/export?format=csv&version=1").content for _ in range(2)]
    assert zips[0] == zips[1]
    archive = zipfile.ZipFile(io.BytesIO(zips[0]))
    assert sorted(archive.namelist()) == ["comparisons.csv", "labels.csv", "manifest.json"]
    for path in ("/operate", "/operate/agreement", "/operate/labeler?name=labeler", "/operate/people"):
        assert operator.get(path).status_code == 200
    audit = operator.get("/operate/audit").text
    for action in ("add project", "add guideline", "add queue", "add items", "cut version"):
        assert action in audit


def test_an_upload_that_unpacks_to_too_much_is_refused(
    clients: dict[str, TestClient], sqlite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a small limit; candidates are kept in memory."""
    queue = filled(sqlite, "compare", candidates(1))
    rows = "".join(json.dumps({"prompt": f"p{i}", "completions": ["a", "b"]}) + "\n" for i in range(40))
    packed = {"file": ("x.jsonl.gz", gzip.compress(rows.encode()))}
    for most, status in ((1000, 400), (10_000, 303)):
        monkeypatch.setattr(operating, "MOST_UNPACKED", most)
        answer = clients["operator"].post(f"/operate/queues/{queue}/items", files=packed)
        assert answer.status_code == status
        assert ("x.jsonl.gz: unpacks to more than" in answer.text) == (status == 400)


def test_programs_use_the_same_queues(app: Any, sqlite: Store) -> None:
    ann, queue = person(sqlite, "ann"), filled(sqlite, "judge", candidates(2, outputs=1))
    with sqlite.write() as tx:
        token = people.open_session(tx, ann.id, lasts=365 * 24 * 3600)
    client = TestClient(app, headers={"Authorization": f"Bearer {token}"})
    assert client.get("/api/queues").json() == [
        {"id": queue, "project": "p", "name": "judge", "kind": "judge", "done": 0, "left": 2}
    ]
    item = client.post(f"/api/queues/{queue}/next").json()["item"]
    assert sorted(item["texts"]) == [f"output {item['prompt'][-1]}.0", f"reference {item['prompt'][-1]}"]
    body = {"key": item["key"], "choice": {"side": "tie"}, "note": "hm"}
    first = client.post("/api/labels", json=body).json()
    assert client.post("/api/labels", json=body).json() == first
    assert first["item"]["key"] != item["key"]
    skipped = client.post("/api/labels", json={"key": first["item"]["key"], "note": "broken"}).json()
    assert skipped["item"] is None
    back = client.post(f"/api/labels/{skipped['label']}/undo").json()["item"]
    assert back["prompt"] == first["item"]["prompt"]


def test_asking_the_served_model(app: Any, clients: dict[str, TestClient], sqlite: Store) -> None:
    client = clients["labeler"]
    asked = client.post("/api/ask", json={"prompt": "hi", "answers": 2}).json()
    assert sorted(asked["texts"]) == ["m/1 says 0: hi", "m/1 says 1: hi"]
    app.state.answer.version = "m/2"  # promoted meanwhile
    body = {"key": asked["key"], "choice": {"scale": 1}}
    assert client.post("/api/ask/feedback", json=body | {"choice": {"vote": "up"}}).status_code == 400
    assert client.post("/api/ask/feedback", json=body).status_code == 200
    where = client.post("/ask", data={"prompt": "hi", "answers": "1"}).headers["location"]
    page = client.get(where)
    assert "m/2 says 0: hi" in page.text
    form = {"key": where.removeprefix("/ask/"), "text": "hello"}
    assert client.post("/ask/feedback", data=form).headers["location"] == where
    assert "opinion is stored" in client.get(where).text
    assert clients["operator"].get(where).status_code == 404
    again = client.post("/api/ask", json={"prompt": "hi", "answers": 1}).json()  # the same question again
    client.post("/api/ask/feedback", json={"key": again["key"], "choice": {"vote": "down"}})
    refused = client.post("/api/ask", json={"prompt": "fail"})
    assert (refused.status_code, refused.json()) == (409, {"detail": "no model is @champion yet"})
    with sqlite.read() as tx:
        exported = tables(tx, "served")
    assert [row["completion"] for row in exported["demonstrations"]] == []  # the vote superseded the edit
    [comparison] = exported["comparisons"]
    assert comparison["policies"] == ["m/1", "m/1"]
    assert comparison["completions"][comparison["ranking"].index(1)] == asked["texts"][0]
    assert {row["kind"] for row in exported["labels"]} == {"compare", "vote"}


def test_without_a_model_it_says_so(sqlite: Store) -> None:
    person(sqlite, "ann")
    client = TestClient(create_app(sqlite), headers=SAME)
    client.post("/login", data={"name": "ann", "password": PASSWORD})
    assert "No model is served here" in client.get("/ask").text
    assert client.post("/api/ask", json={"prompt": "x"}).status_code == 409


CANARY = "<script>window.canary = 1</script><img src=x onerror='window.canary=1'>{{ 7 * 7 }}"


def test_texts_are_escaped(clients: dict[str, TestClient], sqlite: Store) -> None:
    queue = filled(sqlite, "compare", [Candidate(CANARY, (CANARY + "a", CANARY + "b"), ("", ""))])
    text = clients["labeler"].get(f"/work/{queue}").text
    assert "<script>window" not in text
    assert text.count("&lt;script&gt;window.canary") == 3
    assert "{{ 7 * 7 }}" in text


def test_no_request_makes_the_server_fail(store: Store) -> None:
    app = create_app(store, Model())
    op = person(store, "op", role="operator")
    for kind in ("compare", "rank", "vote", "edit", "judge"):
        filled(store, kind, candidates(3))
    with store.write() as tx:
        token = people.open_session(tx, op.id, lasts=365 * 24 * 3600)
    headers = {"Authorization": f"Bearer {token}"}
    described = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    operations = [operation.ok() for operation in described.get_all_operations()]
    assert len(operations) > 35
    for operation in operations:
        if operation.path not in ("/logout", "/account"):  # these end the session
            fuzz(operation, headers)
    with store.read() as tx:
        assert people.user_of(tx, token)  # the fuzzer was signed in to the end


def fuzz(operation: Any, headers: dict[str, str]) -> None:
    @settings(
        max_examples=6,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def request(case: Any) -> None:
        response = case.call(headers=headers)
        case.validate_response(response, checks=[not_a_server_error])

    request()


def test_programs_get_the_turns_of_a_conversation(clients: dict[str, TestClient], sqlite: Store) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    chat, plain = Candidate("Hi", ("a",), ("",), messages=messages), candidates(1, outputs=1)
    for name, item, expected in (("chat", [chat], messages), ("plain", plain, None)):
        queue = filled(sqlite, "vote", item, name=name)
        [taken] = clients["labeler"].post(f"/api/queues/{queue}/next").json().values()
        assert taken["messages"] == expected


def test_a_question_to_a_chat_model_is_a_turn(
    app: Any, clients: dict[str, TestClient], sqlite: Store
) -> None:
    app.state.answer.chat = True
    asked = clients["labeler"].post("/api/ask", json={"prompt": "Hi", "answers": 1}).json()
    assert asked["messages"] == [{"role": "user", "content": "Hi"}]
    assert "Conversation" in clients["labeler"].get(f"/ask/{asked['key']}").text
    verdict = {"key": asked["key"], "choice": {"text": "Better."}}
    assert clients["labeler"].post("/api/ask/feedback", json=verdict).status_code == 200
    with sqlite.read() as tx:
        [edited] = tables(tx, "served")["demonstrations"]
    assert (edited["messages"], edited["completion"]) == (asked["messages"], "Better.")
