"""Which language models may be asked, and which keys may go there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from chat_server import make, pairs

from flows.params import plan
from rlhf.data.errors import DataError
from rlhf.judges.chat_completions import Endpoint
from rlhf.judges.endpoints import DEFAULT, key_for, load_allowed
from rlhf.judges.language_model import LlmJudge

ALLOWED = {
    "api.openai.com": ["OPENAI_API_KEY", "TEAM_KEY"],
    "vllm.local:8000": [],
    "127.0.0.1": ["JUDGE_KEY"],
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "TEAM_KEY", "JUDGE_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"secret of {name}")


@pytest.mark.parametrize(
    ("url", "variable", "key"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY", "secret of OPENAI_API_KEY"),
        ("https://api.openai.com/v1", "TEAM_KEY", "secret of TEAM_KEY"),
        ("http://127.0.0.1:8000/v1", "JUDGE_KEY", "secret of JUDGE_KEY"),
        ("http://localhost:8000/v1", "OPENAI_API_KEY", ""),  # not named: asked without a key
        ("http://vllm.local:8000/v1", "OPENAI_API_KEY", ""),
    ],
)
def test_a_key_goes_where_the_operator_lets_it(url: str, variable: str, key: str) -> None:
    assert key_for(url, variable, ALLOWED) == key


@pytest.mark.parametrize(
    ("url", "variable", "says"),
    [
        ("https://evil.example/v1", "OPENAI_API_KEY", "may not be sent to evil.example"),
        (
            "https://api.openai.com.evil.example/v1",
            "OPENAI_API_KEY",
            "may not be sent to api.openai.com.evil",
        ),
        ("https://api.openai.com@evil.example/v1", "OPENAI_API_KEY", "may not be sent to evil.example"),
        (
            "https://api.openai.com/v1",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SECRET_ACCESS_KEY may not be sent to api",
        ),
        (
            "http://localhost/v1",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SECRET_ACCESS_KEY may not be sent to localhost",
        ),
        ("http://vllm.local:8000/v1", "TEAM_KEY", "TEAM_KEY may not be sent to vllm.local"),
        ("http://vllm.local:9000/v1", "OPENAI_API_KEY", "may not be sent to vllm.local"),
        ("http://api.openai.com/v1", "OPENAI_API_KEY", "a key goes over https only"),
        ("file:///etc/passwd", "OPENAI_API_KEY", "begins with http:// or https://"),
        ("http://host:port/v1", "OPENAI_API_KEY", "evaluate.llm.url http://host:port/v1: Invalid port"),
    ],
)
def test_everything_else_is_refused_in_one_line(url: str, variable: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        key_for(url, variable, ALLOWED)
    assert says in str(error.value)
    assert "secret of" not in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_allowed_stands_in_the_services_file(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    assert load_allowed(path) == DEFAULT
    path.write_text("llm: {llm.example: [A_KEY]}")
    assert load_allowed(path) == {"llm.example": ["A_KEY"]}
    path.write_text("llm: [llm.example]")
    with pytest.raises(DataError, match=r"services\.yaml: llm: write a list of variables for each host"):
        load_allowed(path)


def test_the_judge_itself_asks_again_where_the_key_is_read(
    server: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(server, tmp_path).judge(pairs(1))
    assert "Authorization" not in server.headers[-1]  # type: ignore[attr-defined]
    for endpoint in (
        Endpoint("http://192.0.2.1/v1", "m"),
        Endpoint(server.url, "m", key_variable="AWS_SECRET_ACCESS_KEY"),  # type: ignore[attr-defined]
    ):
        with pytest.raises(DataError, match="may not be sent to"):
            LlmJudge(endpoint, tmp_path / "answers.jsonl").judge(pairs(3))


def test_a_run_is_refused_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump({"seed": 1}))
    changes = {"evaluate.judges": ["llm"], "evaluate.llm.model": "m"}
    with pytest.raises(DataError, match=r"prompts may not be sent to evil\.example"):
        plan(None, None, changes | {"evaluate.llm.url": "https://evil.example/v1"})
    local = {"evaluate.llm.url": "http://127.0.0.1:8000/v1"}
    assert plan(None, None, changes | local).evaluate.llm.model == "m"
    with pytest.raises(DataError, match=r"PATH may not be sent to 127\.0\.0\.1"):
        plan(None, None, changes | local | {"evaluate.llm.key_variable": "PATH"})


@pytest.mark.parametrize("url", ["http://xn--", "http://a\nb", "http://\u2488com"])
def test_a_name_that_is_no_domain_is_refused_in_one_line(url):
    with pytest.raises(DataError) as caught:
        key_for(url, "OPENAI_API_KEY", {})
    assert "\n" not in str(caught.value)
