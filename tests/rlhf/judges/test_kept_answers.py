"""No answer of a language model is lost or paid for twice, whatever ends a run."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from chat_server import completion, make, pairs, verdict_by_length

from rlhf.data.errors import DataError
from rlhf.judges.chat_completions import Endpoint
from rlhf.judges.language_model import LlmJudge


def test_a_server_that_stays_away_ends_the_run_and_keeps_what_it_answered(server, tmp_path):
    def half(request, attempt):
        if re.search(r"prompt [0-4]\n", request["messages"][1]["content"]):
            return 200, {}, completion(verdict_by_length(request))
        return 503, {}, "away"

    server.behave = half
    with pytest.raises(DataError, match=r"status 503 \(away\) after 3 attempts; run again later") as error:
        make(server, tmp_path, attempts=3, concurrency=2).judge(pairs(10))
    assert "\n" not in str(error.value)
    kept = len((tmp_path / "answers.jsonl").read_text().splitlines())
    assert kept == 10
    server.behave = lambda request, attempt: (200, {}, completion(verdict_by_length(request)))
    again = make(server, tmp_path)
    assert len(again.judge(pairs(10))) == 10
    assert (again.usage.cached, again.usage.requests) == (10, 10)


@pytest.mark.parametrize("limits", [{"max_requests": 7}, {"max_tokens": 350}])
def test_the_limit_on_spending_holds_and_a_later_run_goes_on(server, tmp_path, limits):
    (what,) = limits
    with pytest.raises(DataError, match=f"reached its limit of {limits[what]} .*raise {what}"):
        make(server, tmp_path, limits, concurrency=1).judge(pairs(10))
    assert len(server.requests) == 7
    for _ in range(2):
        judge = make(server, tmp_path, {"max_requests": 13})
        assert len(judge.judge(pairs(10))) == 10
    assert len(server.requests) == 20
    assert (judge.usage.requests, judge.usage.cached) == (0, 20)


def test_an_empty_reply_is_not_kept_and_asked_again(server, tmp_path):
    server.behave = lambda request, attempt: (200, {}, completion(None if attempt == 0 else "Verdict: tie"))
    judge = make(server, tmp_path)
    assert judge.judge(pairs(3)) == []
    assert (tmp_path / "answers.jsonl").read_text() == ""
    # a file of an earlier version may hold some
    (tmp_path / "answers.jsonl").write_text(
        "".join(json.dumps({"key": key, "reply": " "}) + "\n" for key in server.seen)
    )
    again = make(server, tmp_path)
    assert [row["preferred"] for row in again.judge(pairs(3))] == ["tie"] * 3
    assert (again.usage.cached, again.usage.requests) == (0, 6)


def test_another_prompt_model_or_server_is_another_question(server, tmp_path):
    make(server, tmp_path).judge(pairs(1))
    other = LlmJudge(Endpoint(server.url, "judge-2"), tmp_path / "answers.jsonl")
    other.judge(pairs(1))
    assert other.usage.cached == 0
    assert other.name == "llm:judge-2:prompt-1"
    same = LlmJudge(Endpoint(server.url, "judge-1", concurrency=1), tmp_path / "answers.jsonl")
    same.judge(pairs(1))
    assert same.usage.cached == 2


def test_a_torn_last_line_costs_one_answer_and_spoils_none(server, tmp_path):
    make(server, tmp_path).judge(pairs(3))
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    judge = make(server, tmp_path)
    assert len(judge.judge(pairs(4))) == 4
    assert (judge.usage.cached, judge.usage.requests) == (5, 3)
    again = make(server, tmp_path)
    again.judge(pairs(4))
    assert again.usage.requests == 0


def test_two_runs_cannot_pay_for_the_same_answers(server, tmp_path):
    refused = threading.Event()

    def held(request, attempt):
        refused.wait(60)
        return 200, {}, completion(verdict_by_length(request))

    server.behave = held
    first = threading.Thread(target=lambda: make(server, tmp_path, timeout=60.0).judge(pairs(1)))
    first.start()
    while not server.requests:
        time.sleep(0.01)
    with pytest.raises(DataError, match="another run writes answers there"):
        make(server, tmp_path).judge(pairs(1))
    refused.set()
    first.join()
    assert len(server.requests) == 2


KILLED = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from chat_server import pairs
from rlhf.judges.chat_completions import Endpoint
from rlhf.judges.language_model import LlmJudge
judge = LlmJudge(Endpoint(sys.argv[1], "judge-1", backoff=0.01), sys.argv[2])
rows = judge.judge(pairs(60))
print(len(rows), judge.usage.requests, judge.usage.cached)
"""


def test_a_killed_run_loses_no_answer_and_pays_for_none_twice(server, tmp_path):
    allowed = threading.Semaphore(0)  # a reply needs one, so that a run gets no further than it should

    def measured(request, attempt):
        allowed.acquire()
        return 200, {}, completion(verdict_by_length(request))

    server.behave = measured
    cache = tmp_path / "answers.jsonl"
    command = [sys.executable, "-c", KILLED, server.url, str(cache)]
    kept = set()
    for rounds in range(1, 4):
        before = sum(server.answered.values())
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        allowed.release(25)
        while sum(server.answered.values()) < before + 25:
            assert run.poll() is None
            time.sleep(0.002)
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        lines = [line for line in cache.read_text().split("\n") if line.endswith("}")]
        now = {json.loads(line)["key"] for line in lines}
        assert now >= kept  # nothing that was kept is gone
        # whatever was answered is kept, but for what was on its way when the process died
        assert len(now) >= sum(server.answered.values()) - 4 * rounds
        kept = now
        before_asked = {key: server.seen[key] for key in kept}
    allowed.release(1000)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    judged, requests, cached = map(int, done.stdout.split())
    assert (judged, requests + cached, cached) == (60, 120, len(kept))
    assert {key: server.seen[key] for key in kept} == before_asked  # none asked again
    assert max(server.answered.values()) <= 2
    assert sum(count - 1 for count in server.answered.values()) <= 4 * 3
    rows = make(server, tmp_path).judge(pairs(60))
    assert [row["preferred"] for row in rows] == ["output", "reference"] * 30
