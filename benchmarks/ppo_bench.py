"""Starts the processes of the PPO benchmark, on models and prompts that it writes once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import ppo_stages
from benchmarks.ppo_models import draw_prompts, write_models, write_prompts
from benchmarks.ppo_run import Spec
from rlhf.data.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
BATCH, PROMPTS = 64, 512
BATCHES = {"37.8m": 16, "150m": 16}  # where an update of 64 would take TRL minutes


class Bench:
    """Starts runs on models that it writes once into a temporary folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.params: dict[str, int] = {}
        self.deadline: float | None = None  # of `time.monotonic`; no process goes on beyond it
        self.baseline = "before" if options.against else "trl"

    def run(self, spec: Spec) -> dict[str, Any]:
        """Run a spec in a process of its own.

        Raises:
            DataError: it failed; the last line it wrote.
        """
        return self.process("ppo_run", spec.who, spec, [self.options.trl] if spec.who == "trl" else [])

    def before(self, spec: Spec) -> dict[str, Any]:
        """Run a spec by the commit that `--against` names, from a clone in the folder.

        Raises:
            DataError: there is no such commit, or see `run`.
        """
        clone, commit = self.folder / "before", self.options.against
        if not clone.exists():
            for words in (["clone", "-q", "--shared", str(ROOT), str(clone)], ["checkout", "-q", commit]):
                where = ["-C", str(clone)] if words[0] == "checkout" else []
                done = subprocess.run(["git", *where, *words], capture_output=True, text=True)
                if done.returncode:
                    raise DataError(f"--against {commit}: {done.stderr.strip().splitlines()[-1]}")
        return self.process("ppo_run", "before", spec, [], clone)

    def stage(self, spec: ppo_stages.Spec) -> dict[str, Any]:
        """Run a phase of `benchmarks.ppo_stages` in a process of its own.

        Raises:
            DataError: see `run`.
        """
        return self.process("ppo_stages", spec.phase, spec, [])

    def process(self, module: str, name: str, spec: Any, trl: list[str], root: Path = ROOT) -> dict[str, Any]:
        request, answer = self.folder / "spec.json", self.folder / "result.json"
        request.write_text(json.dumps(dataclasses.asdict(spec)))
        answer.unlink(missing_ok=True)
        left = None if self.deadline is None else self.deadline - time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{module}", str(request), str(answer)],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(
                        [*(str(Path(folder).resolve()) for folder in trl), str(root)]
                    ),
                    "OMP_NUM_THREADS": str(spec.threads),
                    "TRL_EXPERIMENTAL_SILENCE": "1",
                    "TOKENIZERS_PARALLELISM": "false",
                    "HF_HUB_OFFLINE": "1",
                },
                capture_output=True,
                text=True,
                cwd=root,  # `-m` looks there first
                timeout=left if left is None else max(left, 0.01),
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"the {name} run found no time left") from None
        if done.returncode or not answer.exists():
            last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            raise DataError(f"the {name} run failed: {last}")
        return json.loads(answer.read_text())

    def spec(self, size: str, prompt: tuple[int, int], prompts: int = PROMPTS, **more: Any) -> Spec:
        """A spec whose models and prompts are there."""
        options, models = self.options, self.folder / size
        if size not in self.params:
            dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
            self.params[size] = write_models(models, size, options.seed, dtype)
        fields: dict[str, Any] = {
            "who": "ours",
            "batch": BATCHES.get(size, BATCH),
            "seed": options.seed,
        } | more
        # Never a whole pass: TRL would step at each micro-batch of the last batch of its prompts.
        prompts = max(prompts, fields["batch"] * (options.updates + 2))
        texts = self.folder / f"{size}-{prompt[0]}-{prompt[1]}-{prompts}.json"
        if not texts.exists():
            write_prompts(texts, draw_prompts(size, prompts, *prompt, options.seed))
        return Spec(
            models=str(models),
            prompts=str(texts),
            size=size,
            device=options.device,
            updates=options.updates,
            threads=options.threads,
            trl_micro_batch=options.trl_micro_batch,
            trl_rollout_batch=options.trl_rollout_batch,
            options=options.set,
            **fields,
        )
