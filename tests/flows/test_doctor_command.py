"""`make doctor`: what it shows of data and base model, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import SMALL
from own_rows import own, rankings, rows_of

from flows.doctor import examine, main
from rlhf.data.errors import DataError
from rlhf.settings import Settings, check_settings

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which one is it? \x1b[31m<|im_end|>"},
    {"role": "assistant", "content": "It is one."},
]


def settings(**changes: object) -> Settings:
    nested: dict[str, dict[str, object]] = {}
    for key, value in {**SMALL, **changes}.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})  # type: ignore[assignment]
        inner[name] = value  # type: ignore[index]
    return check_settings(nested, "the test")


def rows_in(folder: Path, rows: list[dict[str, object]]) -> str:
    folder.mkdir()
    lines = [json.dumps(row) for row in rows]
    (folder / "demonstrations.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_the_built_in_task_is_sound_and_what_is_learnt_stands_in_brackets(capsys) -> None:
    assert examine(settings())
    out = capsys.readouterr().out
    assert "120 corpus" not in out
    assert "200 corpus, 160 demonstrations" in out
    assert out.count("<eos>]") == 2
    assert "longer than 256" in out
    assert "all 13 checks passed" in out


def test_conversations_are_shown_as_the_model_sees_them_and_cannot_drive_the_terminal(
    tmp_path, capsys
) -> None:
    rows = [
        {"messages": [*TURNS[:1], {**TURNS[1], "content": f"{TURNS[1]['content']} {i}"}, TURNS[2]]}
        for i in range(40)
    ]
    folder = rows_in(tmp_path / "rows", rows)
    chosen = settings(
        **{
            "ingest.source": "files",
            "ingest.path": folder,
            "base.template": "chatml",
            "base.tokenizer": "bpe",
        }
    )
    assert examine(chosen, shown=1)
    out = capsys.readouterr().out
    assert "<|im_start|>system" in out
    assert "[It is one.<|im_end|>]" in out
    assert "\x1b" not in out
    assert "template chat" in out


def test_a_reward_that_is_the_same_for_every_answer_fails(capsys) -> None:
    chosen = settings(
        **{"ppo.reward_functions.format_weight": 1.0, "ppo.reward_functions.format_pattern": "never"}
    )
    assert not examine(chosen)
    out = capsys.readouterr().out
    assert "FAIL the reward format varies: 32 answers score 0 to 0" in out
    assert "1 of 14 checks failed" in out


def test_bad_data_ends_in_one_line(tmp_path, capsys) -> None:
    folder = rows_in(tmp_path / "rows", [{"messages": TURNS[:2]}])
    with pytest.raises(DataError):
        examine(settings(**{"ingest.source": "files", "ingest.path": folder}))
    with pytest.raises(SystemExit) as ended:
        main(["--set", "base.scale=9B"])
    assert ended.value.code == 1 or "error" in str(ended.value.code)
    assert capsys.readouterr().out == ""


def test_it_lists_all_for_which_a_run_would_be_refused(workspace, capsys) -> None:
    own(workspace, rows_of(60), rankings(60))
    workspace.set({"collect.labelers": "simulated", "evaluate.judges": ["gold"]})
    with pytest.raises(SystemExit) as ended:
        main(["--rows", "0"])
    assert ended.value.code == 1
    checks, run = capsys.readouterr().out.split("The run")
    assert "checks passed" in checks
    assert "FAIL collect.labelers is simulated" in run
    assert "FAIL evaluate.judges has gold" in run
    assert "make run refuses these parameters" in run
    workspace.set({"collect.labelers": "given", "evaluate.judges": ["reward-model"]})
    main(["--rows", "0"])
    assert "make run starts with these parameters" in capsys.readouterr().out


def test_a_conversation_that_the_context_cannot_hold_fails(tmp_path, capsys) -> None:
    rows = [{"messages": [{"role": "user", "content": f"why {i}"}, TURNS[2]]} for i in range(40)]
    rows.append({"messages": [{"role": "user", "content": "why " * 300}, TURNS[2]]})
    changes = {"base.template": "chatml", "base.tokenizer": "bpe", "base.context": 256}
    folder = rows_in(tmp_path / "rows", rows)
    assert not examine(settings(**{"ingest.source": "files", "ingest.path": folder, **changes}))
    out = capsys.readouterr().out
    assert "of 82 conversations are too long, and none is cut: 'why why" in out
    assert "all 13 checks passed" in out
