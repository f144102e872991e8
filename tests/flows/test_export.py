"""An exported policy is a plain Hugging Face folder: transformers alone answers as we do, or it fails."""

from __future__ import annotations

import json
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from chat_policies import CHATML, adapted_policy, saved, small_policy
from conftest import ROOT
from report_page import HOSTILE
from safetensors.torch import load_file, save_file

from flows.export import export, main
from flows.export_check import answers
from flows.exported import Sampling, chat_template, greedy, prove, questions, write_folder
from flows.model_card import model_card, plain
from flows.policies import NamedPolicy, named_policy
from rlhf.data.errors import DataError
from rlhf.models.policy import Policy, load_policy
from rlhf.models.template import as_row
from tasks.runtime.errors import StageError

SAMPLING = Sampling(0.7, 16)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return small_policy()


@pytest.fixture(scope="module")
def folder(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy as it is exported, not yet proved."""
    folder = tmp_path_factory.mktemp("exported") / "policy"
    write_folder(policy, SAMPLING, folder)
    return folder


def in_this_process(folder: Path, rows: Any, longest: int) -> Any:
    """What the program of the proof finds: another process takes seconds to start."""
    asked = [{"prompt": row["prompt"], "messages": row.get("messages")} for row in rows]
    return answers({"folder": str(folder), "longest": longest, "questions": asked})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.exported._fresh_process", in_this_process)


def test_round_trip(tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported by the command, taken for a model folder again, and exported again: the same answers."""
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()  # an empty folder is as good as none
    main([str(saved(policy, tmp_path / "policy")), str(first)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "policy", "second"]
    assert {path.name for path in first.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    with named_policy(str(first)) as named:
        assert (named.temperature, named.longest, named.evaluated) == (0.7, 48, True)
        monkeypatch.setattr("flows.exported._fresh_process", in_this_process)
        proof = export(named, second)
    assert proof[-1].startswith("greedy answers to 5 of 5 prompts are the same ids")
    again = load_policy(second)
    assert (again.stops, again.pad) == (policy.stops, policy.pad)
    assert again.template.prompt(as_row("a")) == policy.template.prompt(as_row("a"))


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("mine")
    model = str(saved(policy, tmp_path / "policy"))
    capsys.readouterr()
    for words in ([model, str(target)], [model, str(target / "mine")], ["nothing", str(tmp_path / "new")]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert (target / "mine").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy", "target"]


def spoil_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    save_file(weights | {name: -weights[name]}, folder / "model.safetensors", {"format": "pt"})


def spoil_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant\\n", "assistant\\n\\n"))


def spoil_stops(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=1)


def spoil_pad(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token="<eos>")


def spoil_side(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", padding_side="right")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_weights, "transformers answers"),
        (spoil_template, "transformers reads"),
        (spoil_stops, "loads stop tokens"),
        (spoil_pad, "loads pad token"),
        (spoil_side, "loads padding_side right"),
    ],
)
def test_a_spoilt_export_fails_the_proof(
    here: None, folder: Path, policy: Policy, tmp_path: Path, spoil: Any, said: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises(StageError, match=said) as failed:
        prove(policy, SAMPLING, copy, [])
    assert "\n" not in str(failed.value)


def test_nothing_is_left_of_an_export_that_fails(
    tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.exported.write_folder", lambda *given: given[2].mkdir())
    with (
        named_policy(str(saved(policy, tmp_path / "policy"))) as named,
        pytest.raises(StageError, match="transformers alone cannot use it"),
    ):
        export(named, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_policy_that_continues_text_writes_bos_once(here: None, tmp_path: Path) -> None:
    """Its tokenizer writes BOS and EOS around texts; prompts begin with BOS and do not end with EOS."""
    from tokenizers.processors import TemplateProcessing

    made = small_policy(chat=False)
    tokenizer = made.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    around = [("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=around
    )
    policy = Policy(made.model, tokenizer)
    assert policy.template.prompt(as_row("a"))[0] == tokenizer.bos_token_id
    write_folder(policy, Sampling(0.0, 8), tmp_path / "out")
    lines = prove(policy, Sampling(0.0, 8), tmp_path / "out", [as_row("Where is the café?")])
    assert "BOS at most once" in lines[1]
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["do_sample"] is False


def test_arguments_of_the_template_are_its_defaults(tmp_path: Path) -> None:
    """What the settings called it with is in the exported template, also inside of a macro."""
    source = "{%- macro tone() %}{{ ' (' + style + ')' if quick else '' }}{%- endmacro %}" + CHATML.replace(
        "message['role'] +", "message['role'] + tone() +"
    )
    policy = small_policy(template=source, arguments={"style": 'it\'s "so"\n', "quick": True})
    written = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}],
        chat_template=chat_template(policy),
        add_generation_prompt=True,
        return_dict=False,
    )
    assert written == policy.template.prompt(as_row([{"role": "user", "content": "Hi"}]))
    assert "it's" in policy.tokenizer.decode(written)
    other = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], chat_template=chat_template(policy), quick=False, tokenize=False
    )
    assert "it's" not in other


def test_questions_are_what_the_policy_can_read() -> None:
    refuses = CHATML.replace(
        "{%- for",
        "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{%- endif %}{%- for",
        1,
    )
    rows = questions(small_policy(template=refuses), [as_row("x " * 300), as_row("ours")], 16)
    assert next(row["prompt"] for row in rows if row["messages"] is None) == "ours"
    assert not any(turn["role"] == "system" for row in rows for turn in row["messages"] or [])
    wrapped = questions(small_policy(), [], 16)
    assert any(len(row["messages"] or []) == 4 for row in wrapped)


def files_of_a_run(simulated: bool = True) -> dict[str, bytes]:
    """What a run leaves behind, with hostile texts."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["collect"]["labelers"] = "simulated" if simulated else "store"
    params["ingest"] |= {"source": "files", "path": f"data/incoming/{HOSTILE}.jsonl"}
    row = {"rate": 0.6, "low": 0.55, "high": 0.65}
    values = {
        "metrics/evaluation.json": {
            "policies": {"ppo": row},
            "n": 1000,
            "confidence": 0.95,
            "judge": {"key": "gold", "name": "gold", "kind": "gold"},
            "warnings": [HOSTILE],
        },
        "metrics/prepare.json": {"demonstrations": {"train": {"rows": 5686}, "test": {"rows": 1000}}},
        "runs/register.json": {
            "gate": {
                "promoted": False,
                "rules": [{"rule": "interval", "held": False, "detail": HOSTILE + "\n# Heading"}],
                "warnings": ["few prompts"],
            }
        },
    }
    lock = {"stages": {"ingest": {"outs": [{"path": "data/raw", "md5": "abc123.dir"}]}}}
    return {name: json.dumps(value).encode() for name, value in values.items()} | {
        "params.yaml": yaml.safe_dump(params).encode(),
        "dvc.lock": yaml.safe_dump(lock).encode(),
    }


def card(files: dict[str, bytes], chat: bool = True) -> str:
    named = NamedPolicy(HOSTILE, (HOSTILE,), Path(), 0.7, 48, True, None, files.get)
    return model_card(named, SAMPLING, ["it loads"], chat)


def test_the_card_says_where_it_comes_from_and_what_was_simulated() -> None:
    text = card(files_of_a_run())
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert front["license"] == "unknown"
    assert "simulated-preferences" in front["tags"]
    assert "**The preferences are simulated**" in text
    assert "0.600 (0.550 to 0.650) on 1000 held-out prompts (95 % interval, gold preference)" in text
    assert "The gate did not let it through" in text
    assert "| Demonstrations | 6,686 (test 1,000, train 5,686) |" in text
    assert "abc123.dir" in text
    assert "Warning: few prompts" in text
    assert "No people judged it" in text
    assert "client.chat.completions.create" in text
    assert "client.completions.create" in card({}, chat=False)
    assert "no chat template" in card({}, chat=False)
    assert "simulated" not in card({})


@pytest.mark.parametrize(("licence", "front"), [("apache-2.0", "apache-2.0"), ("see LICENSE.txt", "other")])
def test_the_card_names_the_base_and_its_licence(licence: str, front: str) -> None:
    files = files_of_a_run(simulated=False)
    params = yaml.safe_load(files["params.yaml"])
    params["base"] = {"type": "pretrained", "path": "org/model-1b", "revision": "0" * 40}
    base = {"licence": licence, "hash": "abc", "changes": ["it pads with '<pad>' now"]}
    files |= {"params.yaml": yaml.safe_dump(params).encode(), "metrics/base.json": json.dumps(base).encode()}
    text = card(files)
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["base_model"]) == (front, "org/model-1b")
    assert f"| Licence of the base | {licence} |" in text
    assert "it pads with" in text
    assert "simulated" not in text.split("## Limits")[1]


def test_hostile_text_in_the_card_stays_text() -> None:
    text = card(files_of_a_run())
    assert "<script" not in text
    assert "<img" not in text
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "\n# Heading" not in text
    assert plain("a|b [x](http://y) `c` *d*\n---\n# e <b>") == (
        "a\\|b \\[x\\](http\\://y) \\`c\\` \\*d\\* --- \\# e &lt;b&gt;"
    )


def test_a_folder_of_another_dtype_is_compared_within_its_rounding(here: None, tmp_path: Path) -> None:
    policy = small_policy(dtype="bfloat16")
    policy.model.to(torch.bfloat16)
    write_folder(policy, SAMPLING, tmp_path / "out")
    lines = prove(policy, SAMPLING, tmp_path / "out", [])
    assert "(bfloat16)" in lines[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("apart", [False, True])
def test_adapters_are_merged_or_kept_apart(here: None, tmp_path: Path, dtype: str, apart: bool) -> None:
    policy = load_policy(adapted_policy(tmp_path, dtype))
    with named_policy(str(tmp_path / "ppo")) as named:
        lines = export(named, tmp_path / "out", apart)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("adapter_model.safetensors" in files) == apart
    assert "model.safetensors" in files
    shutil.rmtree(tmp_path / "pretrained")  # the folder needs nothing beside it
    exported = in_this_process(tmp_path / "out", [as_row("Where is the café?")], 8)
    assert exported["dtype"] == (dtype if apart else "float32")
    assert ("apart" if apart else "merged") in lines[-1]
    if dtype == "float32":
        ids = policy.template.prompt(as_row("Where is the café?"))
        assert exported["answers"] == [greedy(policy, ids, 8)]
        assert exported["answers"] != [greedy(small_policy(), ids, 8)]


def test_there_may_be_no_adapters(tmp_path: Path, policy: Policy) -> None:
    with (
        named_policy(str(saved(policy, tmp_path / "policy"))) as named,
        pytest.raises(DataError, match="no adapters to keep apart"),
    ):
        export(named, tmp_path / "out", adapters=True)


def test_the_policy_of_a_run_brings_its_parameters(tmp_path: Path, policy: Policy) -> None:
    """In a checkout or a run's worktree, params.yaml says how it was sampled."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["evaluate"] |= {"temperature": 0.25, "response_length": 9}
    tree = tmp_path / ".runs" / "mine"
    tree.mkdir(parents=True)
    (tree / "params.yaml").write_text(yaml.safe_dump(params))
    saved(policy, tree / "models/ppo")
    with chdir(tmp_path):
        for name in ("mine", ".runs/mine/models/ppo"):
            with named_policy(name) as named:
                assert (named.temperature, named.longest, named.evaluated) == (0.25, 9, True)
                assert yaml.safe_load(named.file("params.yaml") or b"") == params
                assert named.file("metrics/evaluation.json") is None
        (tmp_path / ".runs/early").mkdir()
        with pytest.raises(DataError, match="it failed or ended before PPO did"), named_policy("early"):
            pass
