"""Data that cannot do what the parameters ask: refused at second 0 and in `validate`, before any training."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import ROOT, Workspace
from own_rows import own, prepared, rankings, rows_of, settings
from tiny_models import tiny_model

from flows.upfront import refuse
from rlhf.data.errors import DataError
from rlhf.measures.rates import wilson
from rlhf.models.policy import Policy, save_model
from rlhf.models.scratch import train_tokenizer
from rlhf.settings import Settings, SettingsError, load_settings
from tasks.rules.view import View
from tasks.runtime.errors import StageError
from tasks.runtime.feasibility import (
    WORDS,
    best_lower_end,
    conversations_too_long,
    gate_warning,
    most_tokens,
    needed_prompts,
)
from tasks.runtime.preflight import cautions
from tasks.validate import refuse_infeasible, views_of


def made(workspace: Workspace) -> dict[str, View]:
    """The tables as the stage `validate` reads them."""
    prepared(workspace)
    return views_of("prepared")


CASES = ROOT.parent / "shared" / "cases"


def long_prompts(workspace: Workspace) -> None:
    own(workspace, [*rows_of(60), {"prompt": "word " * 230, "completion": "a"}], rankings(60))
    workspace.set({"base.context": 232})


def talk(words: int, answer: int = 1) -> dict[str, Any]:
    """A conversation of so many words in one turn, with an answer."""
    user = {"role": "user", "content": " ".join(["talk"] * words)}
    return {"messages": [user], "completion": " ".join(["a"] * answer), "split": "train"}


def long_conversations(workspace: Workspace) -> None:
    """`ppo.max_prompt_length` cuts plain prompts, and no turn."""
    own(workspace, [*rows_of(60), talk(230)], rankings(60))
    workspace.set({"base.context": 240, "base.template": "chatml", "ppo.max_prompt_length": 220})


def only_ties(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60, (1, 1)))


def no_rows_for_the_judge(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    workspace.set({"prepare.judge_share": 0.0})


def ties_for_the_judge(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(40) + rankings(60, (1, 1))[40:])
    splits = ["test"] * 10 + ["validation"] * 5 + ["train"] * 25 + ["judge"] * 20
    rows = [row | {"split": split} for row, split in zip(rows_of(60), splits, strict=True)]
    (workspace.path / "own/demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def one_validation_prompt(workspace: Workspace) -> None:
    splits = ["test"] * 20 + ["validation"] + ["judge"] * 19 + ["train"] * 20
    own(workspace, [row | {"split": s} for row, s in zip(rows_of(60), splits, strict=True)], rankings(60))


def two_demonstrations(workspace: Workspace) -> None:
    own(workspace, rows_of(2), rankings(60))


def one_labeler(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    workspace.set({"reward.labeler_weights": "dawid-skene"})


def thumbs_up_alone(workspace: Workspace) -> None:
    own(workspace, rows_of(60), [])
    (workspace.path / "own/comparisons.jsonl").unlink()
    votes = [row | {"label": True, "labeler_id": "ann"} for row in rows_of(60)]
    (workspace.path / "own/votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in votes))
    workspace.set({"evaluate.judges": ["reward-model"]})


def nothing_held_out(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    workspace.set({"prepare.test_share": 0.0})


INFEASIBLE: dict[str, tuple[Callable[[Workspace], None], str]] = {
    "prompts longer than the context": (
        long_prompts,
        "1 of 61 prompts are too long: base.context 232 leaves 220",
    ),
    "conversations longer than the context": (
        long_conversations,
        "2 of 2 conversations are too long, and none is cut: 'talk talk",
    ),
    "only ties": (only_ties, "no ranking in split train prefers one text to another, 60 of all 60"),
    "no rows for the model judge": (
        no_rows_for_the_judge,
        "split judge has no demonstrations and no rankings",
    ),
    "only ties for the model judge": (ties_for_the_judge, "split judge has no rankings with a preference"),
    "two demonstrations": (two_demonstrations, "there are no demonstrations in split "),
    "one labeler to be told from others": (one_labeler, "all rankings are of one: set it to none"),
    "thumbs up alone": (thumbs_up_alone, " votes of split train are thumbs up, and no ranking there has a"),
    "nothing held out": (nothing_held_out, "no demonstrations in split test: give rows a split"),
    "one prompt for the snapshots": (
        one_validation_prompt,
        "needs two prompts in split validation, there are 1",
    ),
}


@pytest.mark.parametrize("case", INFEASIBLE)
def test_data_that_cannot_do_what_is_asked_is_refused_at_second_0_and_in_validate(
    case: str, workspace: Workspace
) -> None:
    plant, said = INFEASIBLE[case]
    plant(workspace)
    with pytest.raises(SettingsError) as caught:
        refuse(load_settings())
    assert said in str(caught.value)
    with pytest.raises(StageError) as late:
        refuse_infeasible(load_settings(), made(workspace), collected=False)
    assert said in str(late.value)
    assert "\n" not in str(caught.value) + str(late.value)


def test_rankings_without_their_labeler_are_said_and_pass(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    nameless = [{key: value for key, value in row.items() if key != "labeler_id"} for row in rankings(2)]
    own(workspace, rows_of(60), nameless + rankings(60)[2:])
    refuse(load_settings())
    prepared(workspace)
    workspace.stage("validate")
    assert (
        "warning: comparisons: broken rule: it is known who gave the label; 2 rows" in capsys.readouterr().out
    )


def test_the_stage_validate_refuses_rows_that_meet_every_rule(workspace: Workspace) -> None:
    only_ties(workspace)
    prepared(workspace)
    with pytest.raises(StageError, match="60 of all 60 rankings are ties"):
        workspace.stage("validate")
    assert not Path("metrics/validation.json").exists()


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_tokens_are_counted_by_the_tokenizer_that_pretraining_makes(
    tokenizer: str, workspace: Workspace
) -> None:
    """Signs are tokens too: a prompt of few words may still be too long."""
    prompt = "?!,.;" * 50 + " why"
    own(workspace, [*rows_of(60), {"prompt": prompt, "completion": "a"}], rankings(60))
    workspace.set({"base.tokenizer": tokenizer, "base.vocab_size": 300 if tokenizer == "bpe" else 1024})
    workspace.set({"ppo.response_length": 40, "evaluate.response_length": 40, "base.context": 256})
    refuse(load_settings())  # two words
    tables = made(workspace)
    if tokenizer == "word":
        said = "1 of 61 prompts are too long: .* has 251; set ppo.max_prompt_length to 216"
        with pytest.raises(StageError, match=said):
            refuse_infeasible(load_settings(), tables, collected=False)
    else:  # pairs of the signs are learnt from the corpus, which holds them often
        refuse_infeasible(load_settings(), tables, collected=False)
    workspace.set({"ppo.max_prompt_length": 216})
    refuse_infeasible(load_settings(), tables, collected=False)


def test_prompts_are_counted_by_the_tokenizer_and_the_context_of_a_base_from_elsewhere(
    workspace: Workspace,
) -> None:
    """Its weights are not needed: a prompt that does not fit is known before they are fetched or read."""
    tokenizer = train_tokenizer(["one two three"], "word", 300)
    model = tiny_model("llama", tokenizer)  # reaches 64 tokens
    save_model(Policy(model, tokenizer), "bases/tiny")
    own(workspace, [*rows_of(60), {"prompt": "one " * 54, "completion": "a"}], rankings(60))
    base = {"type": "pretrained", "path": "bases/tiny"}
    workspace.set({"base": base, "ppo.response_length": 11, "evaluate.response_length": 10})
    tables = made(workspace)
    with pytest.raises(
        StageError, match=r"1 of 61 prompts are too long: base\.context 64 leaves 53 .* has 54"
    ):
        refuse_infeasible(load_settings(), tables, collected=False)
    workspace.set({"ppo.response_length": 10})
    refuse_infeasible(load_settings(), tables, collected=False)
    workspace.set({"base": base | {"context": 63}})
    with pytest.raises(StageError, match=r"base\.context 63 leaves 53"):
        refuse_infeasible(load_settings(), tables, collected=False)
    workspace.set({"base": base | {"context": 65}})
    with pytest.raises(DataError, match=r"reaches 64 tokens, and base\.context is 65"):
        refuse_infeasible(load_settings(), tables, collected=False)


def test_a_conversation_longer_than_the_model_reaches_is_not_mended_by_a_context() -> None:
    base = {"base__type": "pretrained", "base__path": "team/model", "ppo__response_length": 48}
    row = talk(500)
    row["prompt"] = row["messages"][0]["content"]
    for context, said in ((None, "the model reaches 512; shorten"), (512, "base.context is 512; raise it")):
        problem = conversations_too_long(
            settings(**base, base__context=context), [row], 512, lambda: [(500, 2)]
        )
        assert problem is not None
        assert said in problem.text


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_conversations_are_counted_with_their_turns_and_answers(tokenizer: str, workspace: Workspace) -> None:
    workspace.set({"base.template": "chatml", "base.tokenizer": tokenizer, "base.context": 128})
    workspace.set({"ppo.response_length": 40, "evaluate.response_length": 40})
    splits = ["test"] * 10 + ["validation"] * 5 + ["judge"] * 5 + ["train"] * 40
    split_rows = [row | {"split": split} for row, split in zip(rows_of(60), splits, strict=True)]
    # 128 tokens: 40 of the answer, 8 of both turns' markers, roles and line breaks, and 80 words
    own(workspace, [*split_rows, talk(80)], rankings(60))
    refuse_infeasible(load_settings(), made(workspace), collected=False)
    own(workspace, [*split_rows, talk(81)], rankings(60))
    said = r"2 of 2 conversations .* has 89 tokens, its answer up to 40, and base.context is 128; raise it"
    with pytest.raises(StageError, match=said):
        refuse_infeasible(load_settings(), made(workspace), collected=False)
    own(workspace, [*split_rows, talk(5, answer=200)], rankings(60))
    with pytest.raises(
        StageError, match=r"1 of 2 .* has 13 tokens, its answer up to 201, and base.context is"
    ):
        refuse_infeasible(load_settings(), made(workspace), collected=False)


def test_a_plain_base_needs_a_cue_for_the_answer_to_a_conversation(workspace: Workspace) -> None:
    own(workspace, [*rows_of(60), talk(5) | {"prompt": "talk\nAnswer:"}], rankings(60))
    refuse_infeasible(load_settings(), made(workspace), collected=False)
    own(workspace, [*rows_of(60), talk(5)], rankings(60))
    with pytest.raises(StageError, match=r"1 demonstration in turns, and base.template is plain: set it"):
        refuse_infeasible(load_settings(), made(workspace), collected=False)
    with pytest.raises(
        SettingsError, match=r"set it to chatml, or give them a prompt text that ends with a cue"
    ):
        refuse(load_settings())


def test_a_base_without_a_chat_template_needs_a_cue_too(workspace: Workspace) -> None:
    tokenizer = train_tokenizer(["one two three"], "word", 300)
    save_model(Policy(tiny_model("llama", tokenizer), tokenizer), "bases/tiny")
    workspace.set({"base": {"type": "pretrained", "path": "bases/tiny"}})
    workspace.set({"ppo.response_length": 10, "evaluate.response_length": 10})
    own(workspace, [*rows_of(60), talk(5) | {"prompt": "talk\nAnswer:"}], rankings(60))
    refuse_infeasible(load_settings(), made(workspace), collected=False)
    own(workspace, [*rows_of(60), talk(5)], rankings(60))
    with pytest.raises(StageError, match=r"has no chat template: set base\.template to a file with one, or"):
        refuse_infeasible(load_settings(), made(workspace), collected=False)


def test_a_text_never_has_more_tokens_than_can_be_told_without_a_tokenizer() -> None:
    rng = random.Random(0)
    signs = "ab AB;:'r/\n\t.é_9 \u4e2d🙂"
    texts = ["".join(rng.choices(signs, k=rng.randint(1, 40))) for _ in range(2000)]
    for kind, size in (("word", 1024), ("bpe", 300)):
        encoded = train_tokenizer(texts[:50], kind, size)(texts, add_special_tokens=False)["input_ids"]
        pairs = [(len(ids), most_tokens(kind, text)) for ids, text in zip(encoded, texts, strict=True)]
        assert all(tokens <= most for tokens, most in pairs)
        assert any(tokens == most for tokens, most in pairs)
        if kind == "word":
            of_arrow = pc.count_substring_regex(pa.array(texts), pattern=WORDS).to_pylist()
            assert all(most <= count for (_, most), count in zip(pairs, of_arrow, strict=True))


@pytest.mark.skipif(not CASES.exists(), reason=f"no cases at {CASES}")
def test_long_demonstrations_are_known_before_any_training(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    shutil.copyfile(CASES / "long.demonstrations.jsonl", workspace.path / "own/demonstrations.jsonl")
    with pytest.raises(
        SettingsError, match=r"4 of 64 prompts are too long: .* set ppo.max_prompt_length to 244"
    ):
        refuse(load_settings())


def test_a_judge_that_picks_what_it_judges_is_said(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    [line, _] = refuse(load_settings())
    assert "the judge reward-model picks PPO's checkpoint and judges it too" in line
    assert refuse(load_settings(), "ppo") == []
    workspace.set({"ppo.judge_tolerance": None})
    [gate] = refuse(load_settings())
    assert "the gate needs 200" in gate
    assert cautions(Settings()) == []


# ---- the gate ----


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_best_lower_end_is_the_best_of_all_outcomes(confidence: float) -> None:
    for n in range(1, 15):
        outcomes = (
            [1.0] * wins + [0.5] * ties + [0.0] * (n - wins - ties)
            for wins in range(n + 1)
            for ties in range(n - wins + 1)
        )
        best = max(wilson(points, confidence)[0] for points in outcomes)
        assert best_lower_end(n, confidence) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(("rate", "least"), [(0.5, 4), (0.8, 14), (0.9, 29), (0.99, 284)])
def test_the_gate_needs_exactly_so_many_prompts(rate: float, least: int) -> None:
    asked = settings(register__min_rate=rate, register__min_prompts=1, register__min_decided=1)
    assert needed_prompts(asked) == least
    assert best_lower_end(least, 0.95) > rate >= best_lower_end(least - 1, 0.95)
    assert needed_prompts(settings(register__min_rate=rate, register__min_prompts=300)) == 300
    assert needed_prompts(settings(register__min_prompts=1)) == 100  # register.min_decided
    assert needed_prompts(settings(register__min_rate=1.0)) is None


def test_a_gate_that_nothing_can_pass_is_said_with_the_number_needed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate_warning(settings(), 1000) is None
    assert gate_warning(settings(), 200) is None
    assert "judges 199 prompts, the gate needs 200" in str(gate_warning(settings(), 199))
    assert "raise evaluate.prompts" in str(gate_warning(settings(evaluate__prompts=100), 500))
    assert "no interval lies above" in str(gate_warning(settings(register__min_rate=1.0), 500))

    workspace.set({"register.min_prompts": 21, "register.min_decided": 21, "evaluate.prompts": 1000})
    assert refuse(load_settings()) == []
    workspace.set({"register.min_prompts": 41})
    [line] = refuse(load_settings())  # of the built-in posts the parameters say how many are held out
    assert "judges 40 prompts, the gate needs 41 (register.min_prompts 41" in line
    assert refuse(load_settings(), "evaluate") == []
    refuse_infeasible(load_settings(), made(workspace), collected=False)
    assert f"warning: {line}" in capsys.readouterr().out


@pytest.mark.parametrize("rate", [0.9999, 1 - 1e-9, 1 - 1e-16])
def test_a_bar_next_to_one_is_answered_at_once(rate: float) -> None:
    """No list of that many prompts is made to count them."""
    began = time.perf_counter()
    needed = needed_prompts(settings(register__min_rate=rate))
    assert needed is None or needed > 10_000
    assert time.perf_counter() - began < 2
