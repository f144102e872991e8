"""The benchmarks: the models they measure on, one real run of each kind, what the figures are made of."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PATIENCE, ROOT

from benchmarks import ppo, ppo_bench, ppo_models, ppo_results, ppo_run, ppo_stages
from benchmarks.ppo_run import Spec
from rlhf.data.errors import DataError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    ppo_models.write_models(folder, "tiny", seed=1, dtype=torch.float32)
    ppo_models.write_prompts(folder / "prompts.json", ppo_models.draw_prompts("tiny", 32, 4, 16, seed=1))
    return folder


def run(spec: Spec, folder: Path) -> dict[str, Any]:
    """A run in this process: the benchmark's own are processes for the sake of clean figures."""
    ppo_run.write_spec(spec, folder / "spec.json")
    ppo_run.main(str(folder / "spec.json"), str(folder / "result.json"))
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(("size", "millions"), [("1.3m", 1.3), ("37.8m", 37.8)])
def test_sizes_have_the_parameters_of_their_names(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = ppo_models.LlamaForCausalLM(ppo_models.config_of(size))
    assert model.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)
    assert model.config.tie_word_embeddings
    counts = ppo_models.arithmetic(size)
    norms = (2 * counts.layers + 1) * counts.width
    assert counts.body + counts.head + norms == model.num_parameters()


@torch.no_grad()
def test_the_policy_ends_its_responses_at_varied_places() -> None:
    model = ppo_models.policy_of("tiny", seed=1)
    ids = torch.randint(2, 64, (200, 24), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    more = {"do_sample": True, "temperature": ppo_models.TEMPERATURE, "top_k": 0, "max_new_tokens": 48}
    responses = model.generate(ids, attention_mask=torch.ones_like(ids), **more)[:, 24:]
    lengths = (responses != 0).sum(1).float()
    assert 12 < lengths.mean() < 26  # a constant hazard of 1/24, cut at 48, gives 20.9
    assert lengths.std() > 8
    assert 0.02 < (lengths == 48).float().mean() < 0.3


def test_operations_of_an_episode_are_those_of_its_matrix_products() -> None:
    counts = ppo_models.Arithmetic(body=1000, head=100, layers=2, width=8)
    body = 2 * 1000 * 12 + 2 * 2 * 8 * 12**2
    head = 2 * 100 * 4
    # sampling, reference, value, reward, then twice three times policy and value
    assert counts.of_episode(8, 4, epochs=2) == (4 + 6 + 6) * body + (2 + 6) * head


@pytest.mark.parametrize("variant", ppo.VARIANTS)
def test_a_run_of_ours_is_measured(models: Path, tmp_path: Path, variant: str) -> None:
    if variant == "shared-lora":
        pytest.importorskip("peft")
    small: dict[str, Any] = {"batch": 8, "response": 8, "updates": 2, "threads": 1}
    spec = Spec("ours", str(models), str(models / "prompts.json"), variant=variant, **small)
    result = run(spec, tmp_path)
    assert result["episodes"] == 16  # the first update is not counted
    assert result["episodes_per_s"] == pytest.approx(16 / result["seconds"])
    assert len(result["seconds_by_update"]) == 2
    assert 0 < result["processor_seconds"] < 1.5 * result["seconds"]  # one thread
    assert all(seconds > 0 for seconds in result["seconds_by_phase"].values())
    assert sum(result["seconds_by_phase"].values()) == pytest.approx(result["seconds"])
    assert 0 <= result["peak_memory_above_models"] < result["peak_memory"]
    assert 1 <= result["mean_response_length"] <= 8
    assert result["operations_per_s"] > 0


def test_the_code_path_of_a_gpu_runs_in_bf16(tmp_path: Path) -> None:
    ppo_models.write_models(tmp_path, "tiny", seed=1, dtype=torch.bfloat16)
    ppo_models.write_prompts(tmp_path / "prompts.json", ppo_models.draw_prompts("tiny", 32, 4, 16, seed=1))
    spec = Spec(
        "ours", str(tmp_path), str(tmp_path / "prompts.json"), batch=8, response=8, updates=1, threads=1
    )
    result = run(spec, tmp_path)
    assert result["settings"]["dtype"] == "bfloat16"
    assert result["episodes_per_s"] > 0


def test_the_clock_books_each_second_to_one_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ppo_run.Clock(2, lambda: None)
    now = iter([1.0, 4.0, 10.0, 11.0, 14.0, 20.0])
    monkeypatch.setattr(clock, "now", lambda: next(now))

    class State:
        global_step = 0

    def step(number: int) -> None:
        State.global_step = number
        clock.on_step_end(None, State, None)

    clock.enter("generation")  # 1
    clock.enter("optimisation")  # 4
    step(1)
    step(2)  # 10: warm
    clock.enter("generation")  # 11
    clock.enter("optimisation")  # 14
    step(3)
    step(4)  # 20
    assert clock.updates == [10.0]
    assert clock.phases == {"generation": 3.0, "scoring": 0.0, "optimisation": 6.0, "other": 1.0}


def test_ratios_are_of_pairs() -> None:
    def pair(ours: float, trl: float) -> dict[str, Any]:
        return {
            "ours": {"episodes_per_s": ours, "peak_memory": 1},
            "trl": {"episodes_per_s": trl, "peak_memory": 2},
        }

    ratios = ppo.ratios([pair(10, 5), pair(30, 10), pair(8, 1)])
    assert ratios["ratio_episodes_per_s"] == {"median": 3, "min": 2, "max": 8}
    assert ratios["ratio_peak_memory"]["median"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trl", "nowhere"], "nowhere: no TRL 1.12 here"),
        (["--trl", ""], "pip install --target DIR --no-deps trl==1.12.0"),
        (["--cases", "2b-*"], "names no case"),
        (["--against", "no-such-commit", "--size", "tiny"], "--against no-such-commit: error: pathspec"),
        (["--device", "cuda"], "sees no GPU"),
    ],
)
def test_what_cannot_run_says_so(options: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        ppo.main(ppo.parse(options))


@pytest.mark.parametrize("options", [["--set", "clip=1"], ["--set", "gamma"], ["--repeats", "0"]])
def test_bad_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ppo.parse(options)
    assert options[0] in capsys.readouterr().err


@pytest.mark.skipif(not os.environ.get("TRL112"), reason="TRL112 names no folder with TRL 1.12")
def test_the_whole_command_against_trl(tmp_path: Path) -> None:
    options = ["--quick", "--size", "tiny", "--cases", "*-mixed-*", "--threads", "1", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ppo", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("ppo-quick-*.json")
    written = json.loads(file.read_text())
    assert written["processor"]
    for case in written["cases"]:
        assert case["lengths"] == "mixed"
        assert case["params"] > 0
        assert case["ratio_episodes_per_s"]["min"] > 0
        (pair,) = case["runs"]
        assert pair["trl"]["settings"]["version"] == "1.12.0"
        assert all(pair["trl"]["seconds_by_phase"][name] > 0 for name in ppo_run.PHASES)
    assert "tiny-mixed-separate-critic" in done.stdout


def test_the_whole_command_against_another_commit(tmp_path: Path) -> None:
    options = ["--quick", "--size", "tiny", "--cases", "tiny-mixed-shared-lora", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ppo", "--against", "HEAD", *options, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("ppo-compare-against-quick-*.json")
    written = json.loads(file.read_text())
    assert (written["baseline"], written["against"]) == ("before", "HEAD")
    (pair,) = written["cases"][0]["runs"]
    # The same seed, models and code: the responses are the same.
    assert pair["before"]["mean_response_length"] == pair["ours"]["mean_response_length"]
    assert "ours / before: episodes/s" in done.stdout


def test_seconds_are_told_apart_by_what_the_program_is_at(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(0.3)\n"
    (tmp_path / "slow_to_import.py").write_text(sleep)
    trainer = f"class Trainer:\n    def train(self):\n        {sleep}"
    program = f"{trainer}import slow_to_import\nTrainer().train()\n{sleep}"
    (tmp_path / "program.py").write_text(program)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-m", "benchmarks.where", str(tmp_path / "where.json"), "program"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True)
    seconds = json.loads((tmp_path / "where.json").read_text())
    assert seconds.keys() == {"import", "training", "data"}
    assert min(seconds.values()) > 0.2


@pytest.mark.parametrize("case", ["tiny-lora", "tiny-full"])
def test_every_stage_runs_at_toy_size(case: str, tmp_path: Path) -> None:
    size, lora = ppo_stages.STAGED[case]
    phases = {}
    for phase in ppo_stages.PHASE:
        spec = ppo_stages.Spec(phase, str(tmp_path), size, lora, prompt=12, response=6, threads=1)
        (tmp_path / "spec.json").write_text(json.dumps(dataclasses.asdict(spec)))
        ppo_stages.main(str(tmp_path / "spec.json"), str(tmp_path / "result.json"))
        phases[phase] = json.loads((tmp_path / "result.json").read_text())
        assert phases[phase]["peak_memory"] > 0
    assert phases["ppo"]["kl_of_the_first_rollout"] == 0.0
    assert phases["ppo"]["first_ratio_error"] == 0.0
    assert phases["sft"]["tokens"] == 2 * 4 * 18
    for name in ("sft", "reward", "ppo"):
        assert (tmp_path / name / "adapter_model.safetensors").exists() == lora
        assert (tmp_path / name / "model.safetensors").exists() == (not lora)
    case_of = {"name": case, "prompt": 12, "response": 6, "episodes": 4, "phases": phases}
    shown = ppo_results.stages_table({"stages": [case_of]})
    assert shown.startswith(f"{case}: 0 M parameters")
    assert all(f"\n{name}" in shown for name in ("sft", "reward", "ppo", "  generation"))


def test_the_shape_of_0_6b_is_that_of_qwen3() -> None:
    with torch.device("meta"):
        model = ppo_stages.AutoModelForCausalLM.from_config(ppo_stages.config("0.6b"))
    assert model.num_parameters() == 596_049_920
    assert model.get_output_embeddings().weight.shape == (151_936, 1024)


def test_the_gpu_command_keeps_what_it_has_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run on the CPU: of each part either the result or why it is left out is in the file."""

    def process(self: Any, module: str, name: str, spec: Any, trl: list[str]) -> dict[str, Any]:
        if name == "gemm":
            return {"float32": 1.0, "bfloat16": 1.0}
        if name == "trl":
            raise DataError("the trl run found no time left")
        (self.folder / "spec.json").write_text(json.dumps(dataclasses.asdict(spec)))
        run = {"ppo_run": ppo_run.main, "ppo_stages": ppo_stages.main}[module]
        run(str(self.folder / "spec.json"), str(self.folder / "result.json"))
        return json.loads((self.folder / "result.json").read_text())

    monkeypatch.setattr(ppo_bench.Bench, "process", process)
    options = ["gpu", "--device", "cpu", "--size", "tiny", "--threads", "1", "--out", str(tmp_path)]
    parsed = ppo.parse(options)
    bench = ppo.Bench(tmp_path / "bench", parsed)
    (tmp_path / "bench").mkdir()
    written = ppo.gpu(bench, ["tiny"], tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == written
    assert written["left_out"] == {"tiny against TRL": "the trl run found no time left"}
    assert [case["name"] for case in written["stages"]] == ["tiny-lora", "tiny-full"]
    with pytest.raises(SystemExit):
        ppo.parse(["--size", "tiny-lora", "tiny"])
