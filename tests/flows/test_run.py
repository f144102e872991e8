"""The command of a run refuses bad input and a server that is away in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import flows.pipeline
import flows.run


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--recipe", "nope"], "recipes/ has files, other"),
        (["--recipe", "files"], "add its path (--data PATH, or DATA=PATH with make)"),
        (["--recipe", "files", "--data", "nope.jsonl"], "nope.jsonl: no such file or folder"),
        (["--data", "data.txt"], "ingest.source is builtin); set ingest.source=files"),
        (["--set", "ppo.kl_coeff=1"], "did you mean 'ppo.kl_coef'"),
        (["--set", "ppo.kl_coef=-1"], "greater than or equal to 0, got -1"),
        (["--set", "ppo.kl_coef.x=1"], "no such parameter"),
        (["--set", "ppo.kl_coef"], "expected KEY=VALUE"),
        (["--set", "ingest.columns={prompt:Question}"], "write ingest.columns.prompt=Question"),
        (["--set", "base.scale=9T"], "'0.1M'"),
    ],
)
def test_bad_input_ends_in_one_line_before_anything_starts(
    arguments: list[str],
    line: str,
    small_repository: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flows.pipeline, "rlhf", lambda *_, **__: pytest.fail("the flow was started"))
    before = Path("params.yaml").read_text()
    with pytest.raises(SystemExit) as ended:
        flows.run.main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert line in err
    assert out == ""
    assert Path("params.yaml").read_text() == before
    assert not Path(".runs").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "http://host:port/api"])
def test_a_server_that_does_not_answer_is_one_line(
    url: str, small_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(SystemExit):
        flows.run.main(["--name", "nowhere"])
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: no Prefect server answers at {url}")
    assert printed.count("\n") == 1
