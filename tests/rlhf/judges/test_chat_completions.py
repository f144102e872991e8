"""A chat-completions endpoint that is slow, limits the rate, refuses or fails."""

import json
import time
from collections import Counter
from email.utils import formatdate

import pytest
from chat_server import completion, make, pairs, verdict_by_length

from rlhf.data.errors import DataError
from rlhf.judges.chat_completions import Endpoint
from rlhf.judges.language_model import LlmJudge


def test_failures_are_tried_again_and_the_answer_counts_once(server, tmp_path):
    def shaky(request, attempt):
        if attempt == 0:
            return 500, {}, "oops"
        if attempt == 1:
            return None  # hangs up
        if attempt == 2:
            return 200, {}, "<html>gateway</html>"
        return 200, {}, completion(verdict_by_length(request))

    server.behave = shaky
    judge = make(server, tmp_path)
    assert [row["preferred"] for row in judge.judge(pairs(2))] == ["output", "reference"]
    assert (judge.usage.requests, judge.usage.retries) == (16, 12)
    assert set(server.seen.values()) == {4}
    assert judge.usage.tokens == 200


def test_a_slow_server_is_given_up_after_the_timeout_and_asked_again(server, tmp_path):
    asked_again = Counter()

    def slow_once(request, attempt):
        key = json.dumps(request)
        asked_again[key] += attempt > 0
        while not asked_again[key]:  # held until the judge has given up waiting and asks once more
            time.sleep(0.01)
        return 200, {}, completion(verdict_by_length(request))

    server.behave = slow_once
    judge = make(server, tmp_path, timeout=0.3, attempts=50)
    assert len(judge.judge(pairs(1))) == 1
    assert len(asked_again) == 2
    assert all(asked_again.values())
    assert judge.usage.retries >= 2  # more where this machine is too slow for the timeout


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_that_limits_the_rate_gets_the_rest_it_asks_for(server, tmp_path, form):
    asked = {}

    def limited(request, attempt):
        key = json.dumps(request)
        if attempt == 0:
            asked[key] = time.time()
            rest = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
            return 429, {"Retry-After": rest}, "slow down"
        assert time.time() - asked[key] >= 0.9
        return 200, {}, completion(verdict_by_length(request))

    server.behave = limited
    assert len(make(server, tmp_path).judge(pairs(1))) == 1
    assert set(server.answered.values()) == {1}


def test_a_server_that_asks_for_too_long_a_rest_ends_the_run_in_one_line(server, tmp_path):
    server.behave = lambda request, attempt: (429, {"Retry-After": "86400"}, "quota")
    with pytest.raises(DataError, match=r"status 429 \(quota\) after 1 attempts and asks for 86400 s"):
        make(server, tmp_path).judge(pairs(1))


def test_a_refusal_is_not_tried_again(server, tmp_path):
    server.behave = lambda request, attempt: (401, {}, '{"error":\n "bad key"}')
    with pytest.raises(DataError, match=r"status 401 .*bad key.*check the URL, the model's name and the key"):
        make(server, tmp_path, concurrency=1).judge(pairs(3))
    assert len(server.requests) == 1
    with pytest.raises(DataError, match="begins with http"):
        LlmJudge(Endpoint("ftp://x", "m"), tmp_path / "x.jsonl").judge(pairs(1))
    with pytest.raises(DataError, match="no connection"):
        LlmJudge(Endpoint("http://127.0.0.1:1/v1", "m", attempts=1), tmp_path / "x.jsonl").judge(pairs(1))


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(server, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    make(server, tmp_path).judge(pairs(1))
    assert "Authorization" not in server.headers[-1]
    monkeypatch.setenv("JUDGE_KEY", "s3cret\n")
    allowed = {"127.0.0.1": ["JUDGE_KEY"]}
    make(server, tmp_path, key_variable="JUDGE_KEY", allowed=allowed).judge(pairs(2))
    assert server.headers[-1]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in (tmp_path / "answers.jsonl").read_text()


def test_tokens_are_guessed_where_the_server_counts_none(server, tmp_path):
    server.behave = lambda request, attempt: (
        200,
        {},
        json.dumps({"choices": [{"message": {"content": None}}]}),
    )
    judge = make(server, tmp_path)
    assert judge.judge(pairs(1)) == []  # a refusal: no text at all
    assert 200 < judge.usage.tokens < 1000
