"""Parameters that contradict each other, known before anything trains.

A contradiction that is seen here costs nothing; the stage that would meet it comes after trainings. What the
data cannot do is in `tasks.runtime.feasibility`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rlhf.data.errors import DataError
from rlhf.data.reward_folder import why_no_reward
from rlhf.settings import Pretrained, Scratch, Settings

OWN_REWARD = Path("data/reward-model")  # where a user puts one
PEOPLE = 20  # simulated labelers in all
WITHOUT_DEMONSTRATIONS = (
    "there are no demonstrations, and PPO and the evaluation need them: bring some, or run until the reward "
    "model (`python -m flows.run --until reward`)"
)


@dataclass(frozen=True)
class Problem:
    """Why a run cannot succeed.

    Attributes:
        stage: the stage of dvc.yaml that would fail.
        text: one line that says what is wrong and how to mend it.
    """

    stage: str
    text: str


def contradictions(settings: Settings) -> list[Problem]:
    """Parameters that cannot go together, whatever the data, in the order of the stages."""
    return [
        Problem(stage, text)
        for stage, text, holds in (
            *_of_data(settings),
            *_of_base(settings),
            *_of_lengths(settings),
            *_of_training(settings),
        )
        if holds
    ]


def refuse_missing_config(stage: str, config: str) -> None:
    """Refuse a config file of accelerate that is not there.

    Raises:
        DataError: there is no such file.
    """
    if not Path(config).is_file():
        raise DataError(f"{stage}.accelerate: no such file: {config}; deploy/accelerate has some")


def cautions(settings: Settings) -> list[str]:
    """What makes the figures of a run mean less than they seem to, and does not stop it."""
    ppo, first = settings.ppo, settings.evaluate.gate_judge
    picks = bool(ppo.snapshot_every) and ppo.judge_tolerance is not None and ppo.judge == first
    if not picks or (first == "reward-model" and settings.prepare.judge_share == 0):
        return []
    return [
        f"the judge {first} picks PPO's checkpoint and judges it too, so its rate is too high: set "
        "ppo.judge_tolerance to null, or name another judge first in evaluate.judges"
    ]


def _of_data(settings: Settings) -> list[tuple[str, str, bool]]:
    collect, source, judges = settings.collect, settings.ingest.source, settings.evaluate.judges
    builtin, shares = source == "builtin", settings.prepare
    total = sum(collect.groups.values())
    people = sum(round(PEOPLE * share / total) for share in collect.groups.values()) if total > 0 else 0
    simulated = builtin and collect.labelers == "simulated"
    grouped = builtin and (simulated or "simulated" in judges)  # simulated labelers rank, or judge
    worldly = [name for name in judges if name in ("gold", "simulated")]
    llm = settings.evaluate.llm
    return [
        (
            "prepare",
            f"prepare.test_share {shares.test_share:g} and prepare.judge_share {shares.judge_share:g} leave "
            "no prompt to train on: lower one of them",
            shares.test_share + shares.judge_share >= 1,
        ),
        (
            "ingest",
            f"ingest.chat tells the posts of builtin as conversations, and source {source} says itself which "
            "rows are conversations, by their messages: leave it out",
            settings.ingest.chat and not builtin,
        ),
        (
            "base",
            "ingest.chat makes conversations, and base.template is plain, whose prompts would end without a "
            "cue for the answer: set base.template to chatml",
            settings.ingest.chat and isinstance(settings.base, Scratch) and settings.base.template == "plain",
        ),
        (
            "collect",
            f"collect.labelers is simulated, and simulated labelers know the built-in task only (source "
            f"{source}): set it to given where the data has rankings, to store where people label, to "
            "references where there is nothing but references",
            not builtin and collect.labelers == "simulated",
        ),
        (
            "collect",
            "collect.labelers is given, and the built-in source brings no rankings: set it to simulated or "
            "store, or bring data of your own (ingest.source)",
            builtin and collect.labelers == "given",
        ),
        (
            "collect",
            "collect.labelers is store, but collect.labels.version is not set: `python -m labeling export "
            "PROJECT FOLDER --cut` makes a version, and `python -m flows.loop` does all of it",
            collect.labelers == "store" and collect.labels.version is None,
        ),
        (
            "collect" if simulated else "evaluate",
            "collect.groups makes no labeler: give one of them a share above 0",
            grouped and not people,
        ),
        (
            "collect",
            f"collect.overlap is {collect.overlap}, but collect.groups makes {people} labelers",
            simulated and 0 < people < collect.overlap,
        ),
        (
            "reward",
            f"reward.labeler_weights is {settings.reward.labeler_weights}, which needs outputs that several "
            "labelers ranked: raise collect.shared above 0, or set it to none",
            simulated and settings.reward.labeler_weights != "none" and collect.shared == 0,
        ),
        (
            "evaluate",
            f"evaluate.judges has {' and '.join(worldly)}, which judge the built-in task only (ingest.source "
            f"is {source}): name reward-model (with prepare.judge_share), human or llm",
            not builtin and bool(worldly),
        ),
        (
            "evaluate",
            "evaluate.judges has reward-model, which learns from rankings of its own prompts: set "
            "prepare.judge_share above 0",
            builtin and "reward-model" in judges and shares.judge_share == 0,
        ),
        (
            "evaluate",
            "evaluate.judges has llm: set evaluate.llm.url and evaluate.llm.model",
            "llm" in judges and not (llm.url and llm.model),
        ),
    ]


def _of_base(settings: Settings) -> list[tuple[str, str, bool]]:
    base = settings.base
    if not isinstance(base, Pretrained):
        return []
    folder = Path(base.path).expanduser().is_dir()
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return [
        (
            "base",
            f"base.path {base.path} is no folder here, and a model on the Hub wants a commit: set "
            f"base.revision to its whole hash; `git ls-remote {hub}/{base.path} HEAD` prints the newest",
            not folder and base.revision is None,
        ),
        (
            "base",
            f"base.path {base.path} is a folder, which has no revision: set base.revision to null",
            folder and base.revision is not None,
        ),
    ]


def _of_lengths(settings: Settings) -> list[tuple[str, str, bool]]:
    context = settings.base.context
    if context is None:  # all that the model reaches, which the stage `base` sees
        return []
    return [
        (
            stage,
            f"{name} is {length} tokens, which leaves no room for a prompt in base.context, {context}: "
            "lower it or raise base.context",
            length >= context,
        )
        for stage, name, length in (
            ("collect", "evaluate.response_length", settings.evaluate.response_length),
            ("ppo", "ppo.response_length", settings.ppo.response_length),
        )
    ]


def _of_training(settings: Settings) -> list[tuple[str, str, bool]]:
    ppo, functions, processes = settings.ppo, settings.ppo.reward_functions, settings.processes
    asks = bool(ppo.snapshot_every) and ppo.judge_tolerance is not None
    unfit = why_no_reward(OWN_REWARD) if ppo.reward_model == "given" else None
    return [
        (
            "sft",
            f"sft.batch_size {settings.sft.batch_size} is not divisible by {processes} processes",
            settings.sft.batch_size % processes > 0,
        ),
        (
            "base",
            "base.quantization is 4bit, and weights of 4 bits cannot learn: set base.lora",
            getattr(settings.base, "quantization", "none") != "none" and settings.base.lora is None,
        ),
        *(
            (
                stage,
                f"{stage}.precision is fp32, and base.quantization 4bit computes in bf16: set it to auto, or "
                "base.quantization to none",
                getattr(settings.base, "quantization", "none") == "4bit"
                and getattr(settings, stage).precision == "fp32",
            )
            for stage in ("sft", "reward", "ppo")
        ),
        (
            "reward",
            f"reward.batch_size {settings.reward.batch_size} is not divisible by {processes} processes",
            settings.reward.batch_size % processes > 0,
        ),
        (
            "ppo",
            f"ppo.batch_size {ppo.batch_size} is not divisible by ppo.mini_batches {ppo.mini_batches}",
            ppo.batch_size % ppo.mini_batches > 0,
        ),
        (
            "ppo",
            f"a mini-batch of PPO has {ppo.batch_size // ppo.mini_batches} episodes, fewer than the "
            f"{processes} processes: raise ppo.batch_size or lower ppo.mini_batches",
            ppo.batch_size // ppo.mini_batches < processes,
        ),
        (
            "ppo",
            "ppo.value_warmup needs a value network of its own: set ppo.value to separate, or it to 0",
            ppo.value_warmup > 0 and ppo.value == "head",
        ),
        (
            "ppo",
            f"ppo.reward_model is given, and {unfit}",
            bool(unfit),
        ),
        (
            "ppo",
            "ppo.reward_functions.banned_weight is above 0 and banned_words names no words",
            functions.banned_weight > 0 and not any(word.strip() for word in functions.banned_words),
        ),
        (
            "ppo",
            f"ppo.judge is simulated, and simulated experts know the built-in task only (ingest.source is "
            f"{settings.ingest.source}): set it to reward-model, or ppo.judge_tolerance to null",
            asks and ppo.judge == "simulated" and settings.ingest.source != "builtin",
        ),
    ]
