"""What waits at the start of a command is loaded when it is used, and only then."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import ROOT

from tasks.runtime.libraries import MODULES

BEGINNING = """
from tasks.runtime.process import settle
settle()
import sys
from tasks.runtime.lazily import waiting
"""


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", MODULES)
def test_every_one_of_them_exists(name: str) -> None:
    assert find_spec(name)


STEP = """
import torch, transformers, trl, mlflow
from tasks.runtime.libraries import MODULES
from rlhf.compute import deterministic
deterministic(1, 1)
layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.AdamW(layer.parameters())
with torch.device("meta"):
    torch.nn.Embedding(3, 2)
    torch.arange(4) / 2
for _ in range(2):
    layer(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
"""


def test_a_training_needs_none_of_them() -> None:
    stages = "import tasks.sft, tasks.reward, tasks.ppo, mlflow.store.tracking.sqlalchemy_store\n"
    asked = """
import transformers.models
from transformers.utils.import_utils import create_import_structure_from_path as structure
print([name for name in MODULES if not waiting(name)])
print(structure.__wrapped__.cache_info().hits > 0)
assert transformers.models.llama.LlamaConfig is transformers.LlamaConfig
"""
    assert python(stages + STEP + asked).splitlines() == ["[]", "True"]


def as_installed(module: Any) -> Any:
    """The module as it is without a change of ours; this process has changed its own, as a command does."""
    spec = spec_from_file_location(f"{module.__name__}_as_installed", module.__file__)
    assert spec
    assert spec.loader
    plain = module_from_spec(spec)
    spec.loader.exec_module(plain)
    return plain


def test_transformers_finds_the_same_exports_in_a_quicker_search() -> None:
    from transformers.utils import import_utils

    models = Path(transformers.__file__).parent / "models"
    quick = import_utils.create_import_structure_from_path(models)
    assert quick == as_installed(import_utils).create_import_structure_from_path(models)
    assert quick is import_utils.create_import_structure_from_path(str(models / "__init__.py"))


def test_pytorch_names_the_same_place_of_an_operator() -> None:
    from torch._library import utils

    asked = (utils.get_source, as_installed(utils).get_source)
    assert asked[0].__module__ == "tasks.runtime.libraries"
    assert len({get_source(1) for get_source in asked}) == 1
    assert str(Path(__file__)) in asked[0](1)


def test_plugins_are_those_that_python_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = importlib.metadata.entry_points
    plain = vars(mine)["__wrapped__"]
    for chosen in ({"group": "console_scripts"}, {"group": "none"}, {"name": "mlflow"}):
        assert {*map(repr, mine(**chosen))} == {*map(repr, plain(**chosen))}
    (tmp_path / "late-1.dist-info").mkdir()
    (tmp_path / "late-1.dist-info/METADATA").write_text("Name: late\nVersion: 1\n")
    (tmp_path / "late-1.dist-info/entry_points.txt").write_text("[late.plugins]\nlate = late:main\n")
    assert not mine(group="late.plugins")
    monkeypatch.syspath_prepend(tmp_path)
    assert [plugin.value for plugin in mine(group="late.plugins")] == ["late:main"]


def test_great_expectations_comes_without_what_only_rules_about_distributions_need() -> None:
    code = "import tasks.rules.expectations as e; e.gx.get_context(mode='ephemeral'); "
    assert (
        python(code + "print(*map(waiting, ('scipy.stats', 'altair', 'boto3')))")
        == "scipy.stats altair boto3"
    )


def test_a_function_can_still_be_compiled() -> None:
    code = """
sees = []
@torch.compiler.disable
def apart(x):
    return x + 1
def whole(x):
    return apart(x * 2) * 3
assert apart(torch.ones(1)) == 2 and waiting("torch._dynamo")
def backend(graph, inputs):
    sees.append(graph)
    return graph
compiled = torch.compile(whole, backend=backend)
assert compiled(torch.ones(1)) == whole(torch.ones(1)) == 9
assert not waiting("torch._dynamo")
optimizer.step()
from transformers.integrations.deepgemm import is_sm100
assert is_sm100._dynamo_marked_constant
torch.compile(lambda x: x + 1, backend="eager", fullgraph=True)(torch.ones(1))
assert not waiting("sympy")
torch.compile(lambda x: x.reshape(-1)[: x.shape[0]], backend=backend, dynamic=True)(torch.ones(4, 3))
values = [node.meta.get("example_value") for node in sees[-1].graph.nodes]
assert any(isinstance(value, torch.SymInt) for value in values)
print(len(sees))
"""
    assert python(STEP + "import transformers.integrations.deepgemm" + code) == "3"


def test_adapters_can_still_be_put_on_a_model() -> None:
    code = """
import rlhf.rl.trainer, trl.trainer.sft_trainer
from transformers import LlamaConfig, LlamaForCausalLM
from peft import LoraConfig, PeftModel, get_peft_model
sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
config = LlamaConfig(vocab_size=9, **sizes)
model = LlamaForCausalLM(config)
assert not isinstance(model, PeftModel) and waiting("peft")
adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
assert isinstance(adapted, PeftModel) and isinstance(adapted, rlhf.rl.trainer.PeftModel)
assert not waiting("peft")
out = adapted(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]]))
out.loss.backward()
print(sum(p.grad is not None for p in adapted.parameters()))
"""
    assert int(python("import torch" + code)) > 0


def test_a_tensor_over_several_devices_is_known_as_one() -> None:
    code = """
import os, torch, rlhf.compute, transformers.modeling_utils, accelerate
os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
from transformers.distributed.utils import is_dtensor
whole = torch.ones(2)
assert not is_dtensor(whole) and rlhf.compute.part_of(whole, whole) is whole
assert waiting("torch.distributed.tensor")
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
spread = distribute_tensor(whole, init_device_mesh("cpu", (1,)))
assert is_dtensor(spread) and rlhf.compute.part_of(whole, spread).equal(spread)
print(waiting("torch.distributed.tensor"))
torch.distributed.destroy_process_group()
"""
    assert python(code) == "None"
