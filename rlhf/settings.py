"""Every parameter of the pipeline: one definition with description, unit and bounds.

`params.yaml` is validated against `Settings`; the Prefect form and the docs read the same definition.
`python -m rlhf.settings` prints the table.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator
from pydantic_core import PydanticUndefined


class SettingsError(ValueError):
    """A params file that cannot be used, in one line: the file, the key, and what is wrong."""


def param(default: Any, description: str, unit: str | None = None, **bounds: Any) -> Any:
    """A pydantic field with its description, unit and bounds."""
    return Field(
        default, description=description, json_schema_extra={"unit": unit} if unit else None, **bounds
    )


class Section(BaseModel):
    """A section of params.yaml; unknown keys are refused, and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reading(Section):
    """How the files of a source are read; what is left out is told by their columns."""

    layout: str | None = param(
        None, "name of the layout (docs/data.md lists them); null recognises it by the columns"
    )
    columns: dict[str, str] = param(
        {},
        "column of the pipeline -> column of the file, such as {prompt: question, chosen: better_answer}; a "
        'text made of several is written as "{title}: {post}"',
    )
    keep: list[str] = param([], 'unknown columns that are kept, as JSON in the column extra; ["*"] keeps all')
    direction: Literal["lower", "higher"] | None = param(
        None, "whether the lower or the higher rank or score is better, where the layout leaves it open"
    )
    aspects: dict[str, float] = param(
        {},
        "weights of ratings by aspect, such as {helpfulness: 1, verbosity: -0.2}; {} takes the overall one",
    )
    words: dict[str, str] = param(
        {},
        "answer in words -> first, second, tie, both_bad or skip, such as {left one: first}, or the column "
        "of the output that it means",
    )
    prompt: str | None = param(None, "column of the prompt, where several could be it")
    outputs: list[str] = param([], "columns of the outputs in order, where others could be among them")
    edit: str | None = param(
        None, "question whose free text is an edit of the first output; other free text is a note"
    )
    best_answers: Literal["comparisons", "demonstrations"] = param(
        "comparisons",
        "demonstrations: the best answer of each comparison is a demonstration as well, for preferences that "
        "come without any; comparisons: it is not",
    )
    unreadable: Literal["refuse", "quarantine"] = param(
        "refuse",
        "what becomes of a row that cannot be read: refuse stops; quarantine writes it beside the data with "
        "file, row and reason, and goes on",
    )


class FileSource(Reading):
    """One of several sources."""

    path: str = param(..., "file, folder, pattern such as shards/*.parquet, or id of a data set on the Hub")
    revision: str | None = param(None, "commit of a data set on the Hub, all 40 digits of its hash")
    name: str | None = param(None, "what its rows carry as source; null for the name of the file")
    split: Literal["train", "validation", "judge", "test"] | None = param(
        None, "split of all its rows; null for what the data say"
    )
    # At most 1: a row that is repeated is a row that says the same as another, which validation refuses, and
    # only the ratio of the weights matters.
    weight: float = param(
        1.0,
        "share of its rows that are taken, each by the hash of what it says; rows that say that they are "
        "held out are all taken",
        gt=0,
        le=1,
    )


class Ingest(Reading):
    """Where the data comes from."""

    source: Literal["builtin", "files", "qa-feedback"] = param(
        "builtin",
        "builtin: the seeded generator; files: demonstrations, preferences, votes, conversations in any "
        "layout that docs/data.md lists; qa-feedback: dev_feedback.json of FineGrainedRLHF",
    )
    path: str | None = param(
        None, "file, folder, pattern of files, or id of a data set on the Hub; none for builtin"
    )
    revision: str | None = param(None, "commit of a data set on the Hub, all 40 digits of its hash")
    sources: list[FileSource] = param([], "several sources in place of path, each read in its own way")
    sha256: str | None = param(
        None, "hash that the source must have; filled in by --data, so that a changed file is another dataset"
    )
    corpus_posts: int = param(24000, "posts in the pretraining corpus", "posts", ge=100, le=10_000_000)
    train_posts: int = param(6000, "posts with a reference for training", "posts", ge=50, le=1_000_000)
    test_posts: int = param(1000, "held-out posts for evaluation", "posts", ge=20, le=100_000)
    decoy_share: float = param(0.2, "share of posts that also tell another person's story", ge=0, le=1)
    summary_share: float = param(0.15, "share of corpus posts that end with a summary", ge=0, le=1)
    chat: bool = param(False, "builtin: prompts are conversations (messages) about the same posts")


class Prepare(Section):
    """Splits and lengths."""

    validation_share: float = param(0.05, "share of training prompts held out for curves", ge=0.01, le=0.5)
    judge_share: float = param(0.0, "share of prompts that only a reward-model judge trains on", ge=0, le=0.5)
    test_share: float = param(
        0.0, "share of prompts for evaluation where the source has no test split", ge=0, le=0.5
    )
    near_duplicates: float | None = param(
        0.85,
        "prompts with this share of words in common (intersection over union) are in one split; null looks "
        "for equal prompts only",
        ge=0.5,
        le=1,
    )
    too_long: Literal["refuse", "drop", "cut"] = param(
        "refuse",
        "rows that the context of the base cannot hold: refuse stops before any training; drop leaves them "
        "out; cut takes the start of plain prompts, in every table alike",
    )
    max_prompt_chars: int = param(4000, "longer prompts fail validation", "characters", ge=50, le=1_000_000)
    max_completion_chars: int = param(
        2000, "longer completions fail validation", "characters", ge=10, le=1_000_000
    )


class Validate(Section):
    """What becomes of rows that break a rule; `python -m tasks.rules` lists the rules."""

    rules: dict[str, Literal["stop", "warn", "quarantine"]] = param(
        {},
        "rule -> what a breach does, where it is not as the rule says itself, such as {personal_data: stop}; "
        "quarantine: prepare takes the rows out and writes them beside, with file, row and rule",
    )
    thresholds: dict[str, float] = param(
        {}, "rule -> its threshold, where it is not the rule's own, such as {ties: 0.8}"
    )


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021) that are trained in place of all weights."""

    rank: int = param(16, "rank of each adapter", ge=1, le=1024)
    alpha: float | None = param(
        None, "what the adapters add is multiplied by alpha / rank; null for twice the rank", gt=0, le=65_536
    )
    dropout: float = param(0.0, "share of an adapter's inputs that training leaves out", ge=0, lt=1)
    targets: Literal["auto"] | list[str] = param(
        "auto", "auto: every linear layer of the blocks; or the names of the layers, such as [q_proj, v_proj]"
    )

    @field_validator("targets")
    @classmethod
    def _named(cls, targets: str | list[str]) -> str | list[str]:
        if not targets or not all(targets):
            raise ValueError("name at least one layer, or write auto")
        return targets


LORA = "adapters that SFT, the reward model and PPO train in place of all weights; null trains all of them"


class Scratch(Section):
    """A base model of our own: a tokenizer and a small Llama, trained on the corpus."""

    type: Literal["scratch"] = param("scratch", "trained here, on the corpus")
    # It is not named `size`: DVC's run cache leaves out parameters of that name (and `nfiles`), so another
    # size would bring back the model of this one.
    scale: Literal["0.1M", "0.15M", "0.2M", "0.3M", "0.5M", "1M", "2M", "3M"] = param(
        "0.1M", "rung of the size ladder, in parameters"
    )
    tokenizer: Literal["word", "bpe"] = param("word", "word: a closed vocabulary; bpe: byte-level, any text")
    vocab_size: int = param(1024, "at most this many tokens", "tokens", ge=260, le=262_144)
    context: int = param(256, "longest sequence, prompt and response together", "tokens", ge=32, le=131_072)
    template: Literal["plain", "chatml"] = param(
        "plain", "plain: text as it is; chatml: conversations by a ChatML template of the tokenizer's own"
    )
    steps: int = param(700, "optimiser steps", "steps", ge=1, le=10_000_000)
    batch_size: int = param(64, "texts an optimiser step", "texts", ge=1, le=65_536)
    learning_rate: float = param(3e-3, "peak learning rate of embeddings and norms (AdamW)", gt=0, le=1)
    muon_learning_rate: float = param(0.02, "peak learning rate of the hidden matrices (Muon)", gt=0, le=1)
    save_every: int = param(200, "optimiser steps between checkpoints", "steps", ge=1, le=1_000_000)
    lora: Lora | None = param(None, LORA)


class Pretrained(Section):
    """A base model that was trained elsewhere; only its safetensors are read, and no code from it is run."""

    type: Literal["pretrained"] = param("pretrained", "a causal language model from the Hub or a folder")
    path: str = param(..., "id on the Hugging Face Hub, such as Qwen/Qwen3-0.6B, or a folder", min_length=1)
    revision: str | None = param(
        None, "commit of the Hub that is fetched, all 40 digits of its hash; null for a folder"
    )
    sha256: str | None = param(
        None,
        "hash that the folder and the template's file must have; filled in when a run is planned, so that "
        "other content is another base",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = param(
        "auto", "type of the weights in memory; auto: as the device computes best"
    )
    quantization: Literal["none", "4bit"] = param(
        "none",
        "4bit: the weights lie in memory as 4-bit NormalFloats and adapters learn (QLoRA), on GPUs only",
    )
    context: int | None = param(
        None,
        "longest sequence, prompt and response together; null for all that the model reaches",
        "tokens",
        ge=32,
        le=2**24,
    )
    template: str = param(
        "auto",
        "auto: the tokenizer's chat template where it has one, else plain; plain: text as it is; chat: plain "
        "prompts as a user's turn too; or a file with a Jinja template",
        min_length=1,
    )
    template_arguments: dict[str, Any] = param(
        {}, "arguments of the chat template, such as {enable_thinking: false}"
    )
    lora: Lora | None = param(None, LORA)
    attention: str | None = param(
        None, "attention of transformers: sdpa, eager, flash_attention_2 ...; null for its choice"
    )
    gradient_checkpointing: bool = param(
        False, "computes activations twice in place of keeping them: less memory, about a third more time"
    )

    @field_validator("revision")
    @classmethod
    def _commit(cls, revision: str | None) -> str | None:
        if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ValueError(
                "a branch or a tag may move: write the whole hash of a commit, 40 hexadecimal digits"
            )
        return revision

    @field_validator("template")
    @classmethod
    def _template(cls, template: str) -> str:
        if template not in ("auto", "plain", "chat") and not re.search(r"[./\\]", template):
            raise ValueError("Input should be 'auto', 'plain', 'chat' or the path of a Jinja file")
        return template


def base_name(base: Scratch | Pretrained) -> str:
    """How a base is called in a word or two: its rung of the size ladder, or where it comes from."""
    return base.scale if isinstance(base, Scratch) else base.path


def base_type(values: Any) -> str:
    """The type of a base; a section that does not say it has the first type that knows all its keys."""
    if isinstance(values, Section):
        return str(getattr(values, "type", ""))
    if not isinstance(values, dict):
        return next(iter(BASES))
    fits = (name for name, variant in BASES.items() if set(values) <= set(variant.model_fields))
    return str(values.get("type") or next(fits, next(iter(BASES))))


BASES: dict[str, type[Section]] = {"scratch": Scratch, "pretrained": Pretrained}
Base = Annotated[
    Annotated[Scratch, Tag("scratch")] | Annotated[Pretrained, Tag("pretrained")], Discriminator(base_type)
]


Precision = Literal["auto", "fp32", "bf16"]
PRECISION = "arithmetic; auto: bf16 on GPUs that have it and for wide models on CPUs with AMX"


class Training(Section):
    """What every training has in common."""

    batch_size: int = param(32, "sequences an optimiser step", "sequences", ge=1, le=65_536)
    learning_rate: float = param(1e-3, "peak learning rate", gt=0, le=1)
    save_every: int = param(100, "optimiser steps between checkpoints", "steps", ge=1, le=1_000_000)
    precision: Precision = param("auto", PRECISION)


class Sft(Training):
    """Supervised fine-tuning on the demonstrations."""

    epochs: float = param(1.5, "passes over the demonstrations", "epochs", gt=0, le=1000)
    learning_rate: float = param(2e-3, "peak learning rate", gt=0, le=1)
    learn: Literal["last", "all"] = param(
        "last", "which assistant turns of a demonstration are learnt: its completion, or those before it too"
    )
    accelerate: str | None = param(
        None, "config file of accelerate for several processes, see deploy/accelerate; null for DDP"
    )


class Labels(Section):
    """A version of the label store, and the hash that it must have."""

    project: str = param("built-in", "project of the label store", min_length=1, max_length=60)
    version: int | None = param(None, "all its labels up to this version", ge=1)
    sha256: str | None = param(
        None, "hash that the rankings must have, so that another store is another dataset; null for any"
    )


class Collect(Section):
    """Candidate outputs and who ranks them."""

    labelers: Literal["simulated", "given", "store"] = param(
        "simulated",
        "simulated: the built-in labelers rank samples; given: rankings come with the source; store: people "
        "gave them in the labeling app (collect.labels; the flow `feedback` fills that in)",
    )
    labels: Labels = Labels()
    prompts: int = param(1600, "prompts to collect rankings for", "prompts", ge=1, le=1_000_000)
    candidates: int = param(4, "K, outputs ranked together", "outputs", ge=2, le=9)
    temperature: float = param(0.9, "sampling temperature of the candidates", gt=0, le=5)
    groups: dict[str, float] = param(
        {"expert": 0.6, "novice": 0.3, "spammer": 0.1}, "shares of the simulated labelers by group"
    )
    shared: float = param(
        0.15, "share of prompts in the pool that several labelers rank; tells labelers apart", ge=0, le=1
    )
    overlap: int = param(2, "labelers who rank each prompt of the shared pool", "labelers", ge=2, le=20)

    @field_validator("groups")
    @classmethod
    def _shares(cls, groups: dict[str, float]) -> dict[str, float]:
        if not (all(share >= 0 for share in groups.values()) and sum(groups.values()) < float("inf")):
            raise ValueError("shares must be finite numbers of 0 or more")
        return groups


class Reward(Training):
    """The reward model, from rankings."""

    accelerate: str | None = param(
        None, "config file of accelerate for several processes, see deploy/accelerate; null for DDP"
    )
    epochs: float = param(2, "passes over the rankings", "epochs", gt=0, le=1000)
    batch_size: int = param(
        16, "prompts an optimiser step; each brings all pairs of its ranking", "prompts", ge=1, le=65_536
    )
    learning_rate: float = param(1e-3, "peak learning rate", gt=0, le=1)
    labeler_weights: Literal["none", "dawid-skene", "bradley-terry"] = param(
        "none",
        "how much each labeler's rankings count: none: alike; dawid-skene: by accuracy, bradley-terry: by "
        "ability, both estimated from the outputs that several labelers ranked",
    )
    judge_contrast: int = param(
        2,
        "answers to other prompts that the reward-model judge learns to prefer less than each reference of "
        "its split (Liu et al. 2024); 0 for none",
        "answers",
        ge=0,
        le=16,
    )


class RewardFunctions(Section):
    """Automated rewards beside the reward model; a weight of 0 leaves one out."""

    length_weight: float = param(
        0, "reward of each word more or fewer than length_target, times -1", ge=0, le=100
    )
    length_target: int = param(20, "words of a good response", "words", ge=1, le=100_000)
    repetition_weight: float = param(0, "penalty of the share of repeated word trigrams", ge=0, le=100)
    format_weight: float = param(0, "reward of a response that matches format_pattern", ge=0, le=100)
    format_pattern: str = param(".*[.!?]", "regular expression of a whole response")
    banned_weight: float = param(0, "penalty of each banned word", ge=0, le=100)
    banned_words: list[str] = param([], "words that a response should not hold")


class Ppo(Section):
    """Proximal policy optimisation against the reward model."""

    accelerate: str | None = param(
        None, "config file of accelerate for several processes, not DeepSpeed's; null for DDP"
    )
    updates: int = param(12, "rollout-and-optimise rounds", "updates", ge=1, le=10_000_000)
    batch_size: int = param(128, "episodes an update", "episodes", ge=2, le=65_536)
    micro_batch_tokens: int = param(
        4096, "tokens, padding included, of a forward and backward pass", "tokens", ge=1, le=10_000_000
    )
    mini_batches: int = param(2, "optimiser steps an epoch of an update", "steps", ge=1, le=1024)
    epochs: int = param(4, "passes over the episodes of an update", "epochs", ge=1, le=100)
    learning_rate: float = param(5e-4, "peak learning rate, linear decay", gt=0, le=1)
    response_length: int = param(48, "longest response", "tokens", ge=1, le=131_072)
    max_prompt_length: int | None = param(
        None,
        "longer prompts lose their start; null refuses what the context cannot hold",
        "tokens",
        ge=1,
        le=10_000_000,
    )
    stop_tokens: list[str] = param([], "tokens that end a response besides EOS")
    temperature: float = param(0.7, "sampling temperature", gt=0, le=5)
    reward_model: Literal["trained", "given"] = param(
        "trained", "what scores: models/reward, or the folder data/reward-model, on any tokenizer"
    )
    value: Literal["separate", "head"] = param(
        "separate", "separate: a value network from the reward model; head: on the policy's hidden states"
    )
    freeze_layers: int = param(
        0, "the embeddings and this many first layers stay as they are", "layers", ge=0, le=1024
    )
    kl_coef: float = param(0.05, "weight of the per-token KL penalty in the reward", ge=0, le=10)
    kl_estimator: Literal["k1", "k2", "k3"] = param("k1", "estimator of the KL (Schulman 2020)")
    kl_target: float | None = param(
        None,
        "KL that an adaptive kl_coef holds (Ziegler et al. 2019); null keeps kl_coef",
        "nats",
        gt=0,
        le=1000,
    )
    kl_horizon: float = param(10_000, "episodes over which the controller acts", "episodes", gt=0, le=1e9)
    early_stop_kl: float | None = param(
        None,
        "an update ends early once a step's KL to the rollout exceeds it; null never",
        "nats",
        gt=0,
        le=1000,
    )
    reward_weight: float = param(1.0, "weight of the reward model in the score", ge=0, le=100)
    reward_functions: RewardFunctions = RewardFunctions()
    missing_eos: float | None = param(
        -1.0, "what a response without EOS scores; null keeps its score", ge=-1000, le=1000
    )
    missing_eos_rule: Literal["replace", "add"] = param(
        "replace", "replace: missing_eos is the score; add: it is added to the score"
    )
    whiten_rewards: bool = param(False, "scale token rewards to variance 1 over the batch")
    whiten_advantages: bool = param(True, "whiten advantages over the whole batch")
    gamma: float = param(1.0, "discount", ge=0, le=1)
    lam: float = param(0.95, "lambda of generalised advantage estimation", ge=0, le=1)
    clip: float = param(0.2, "ratio clip", gt=0, le=10)
    value_clip: float = param(0.2, "value clip", gt=0, le=1000)
    value_coef: float = param(0.1, "weight of the value loss", ge=0, le=100)
    value_warmup: int = param(
        0,
        "updates at the start in which only a separate value network learns, its loss unclipped",
        "updates",
        ge=0,
        le=1000,
    )
    max_grad_norm: float = param(1.0, "gradient-norm clip", gt=0, le=1000)
    ptx_coef: float = param(
        0.0,
        "weight of the language-modelling loss on demonstrations, PPO-ptx (Ouyang et al. 2022)",
        ge=0,
        le=1000,
    )
    ptx_batch_size: int = param(32, "demonstrations of that loss an optimiser step", "texts", ge=1, le=65_536)
    precision: Precision = param("auto", PRECISION)
    save_every: int = param(10, "updates between checkpoints", "updates", ge=1, le=1_000_000)
    snapshot_every: int = param(
        3, "updates between evaluation snapshots; 0 for none", "updates", ge=0, le=1_000_000
    )
    snapshot_prompts: int = param(
        200, "validation prompts of a snapshot, at most", "prompts", ge=2, le=100_000
    )
    best_of_n: int = param(
        4,
        "the snapshots show best-of-n of SFT beside PPO, n = 1, 2, 4 ... up to this; 1 for none",
        "samples",
        ge=1,
        le=1024,
    )
    judge: Literal["reward-model", "simulated"] = param(
        "reward-model",
        "who judges the snapshots while PPO runs: reward-model: the judge of that name, if there is one "
        "(prepare.judge_share); simulated: simulated experts, in place of people, on the built-in task only",
    )
    judge_tolerance: float | None = param(
        0.02,
        "a fall of that judge's preference under a rising reward that does not yet stop PPO, as a rate; the "
        "snapshot that it prefers is kept; null asks nobody",
        ge=0,
        le=1,
    )


JudgeName = Literal["gold", "simulated", "reward-model", "human", "llm"]


class Llm(Section):
    """The language model behind the judge `llm`; its key is read from the environment."""

    url: str | None = param(
        None,
        "base URL of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1; other machines have to be "
        "named in services.yaml",
    )
    model: str | None = param(None, "the model's name there")
    key_variable: str = param(
        "OPENAI_API_KEY",
        "environment variable with the API key, which services.yaml has to allow; unset sends none",
    )
    temperature: float | None = param(
        0.0, "sampling temperature of its replies; null leaves it out, as some models refuse one", ge=0, le=2
    )
    reply_tokens: int | None = param(
        500,
        "longest reply; a model that thinks first needs more; null leaves the limit out",
        "tokens",
        ge=1,
        le=1_000_000,
    )
    max_requests: int = param(
        10_000, "requests a run may send; every pair is asked in both orders", "requests", ge=1, le=10_000_000
    )
    max_tokens: int | None = param(None, "tokens a run may use", "tokens", ge=1, le=10**10)
    control_prompts: int = param(
        50,
        "held-out prompts of each of the five controls that show whether this judge can be believed; each is "
        "asked in both orders",
        "prompts",
        ge=10,
        le=100_000,
    )
    control_pairs: int = param(
        200,
        "held-out pairs ordered by people that its accuracy is measured on, at most one a prompt",
        "pairs",
        ge=10,
        le=100_000,
    )


class Evaluate(Section):
    """Human-vs-reference evaluation."""

    judges: list[JudgeName] = param(
        ["gold", "simulated"],
        "who judges; the gate reads the first. gold, simulated: of the built-in task; reward-model: trained "
        "on the judge split only (prepare.judge_share); human: files in data/human; llm: evaluate.llm",
        min_length=1,
    )
    prompts: int = param(1000, "held-out prompts, at most", "prompts", ge=10, le=100_000)
    temperature: float = param(0.7, "sampling temperature; 0 is greedy", ge=0, le=5)
    response_length: int = param(48, "longest output", "tokens", ge=1, le=131_072)
    confidence: float = param(0.95, "coverage of the intervals", gt=0.5, lt=1)
    banned_words: list[str] = param([], "words and phrases that no output may hold")
    hacking_tolerance: float = param(
        0.02, "a fall of the preference during PPO that does not matter, as a rate", ge=0, le=1
    )
    llm: Llm = Llm()

    @property
    def gate_judge(self) -> JudgeName:
        """The judge that the gate and the headline read: the first that is named."""
        return self.judges[0]

    @field_validator("judges")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("a judge is named twice")
        return names


class Register(Section):
    """The registry and the gate to @champion."""

    model_name: str = param(
        "rlhf-policy", "name in the model registry", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
    )
    min_rate: float = param(
        0.5, "the lower ends of the rate and of the rate at equal length must lie above this", ge=0, le=1
    )
    min_prompts: int = param(
        200,
        "fewer judged prompts never promote; spellings of one prompt are one",
        "prompts",
        ge=1,
        le=100_000,
    )
    min_decided: int = param(
        100,
        "prompts on which the judge prefers a side, and prompts on which PPO and SFT are compared: with "
        "fewer a rate is not known to a tenth",
        "prompts",
        ge=1,
        le=100_000,
    )
    min_agreement: float = param(
        0.0,
        "Krippendorff's alpha of another judge with the first must lie above this for sure; 0 is chance, -1 "
        "for no such rule",
        ge=-1,
        le=1,
    )
    beat_champion: bool = param(
        True,
        "also require to be worse than the champion for sure in nothing and better for sure in the rate, the "
        "rate at equal length, a slice, safety or length, on the same prompts",
    )
    max_champion_loss: float = param(
        0.03,
        "where the gain over the champion is not in the rate, how far the rate may lie below the champion's: "
        "the interval of the difference must lie above minus this, which 1000 prompts can show",
        ge=0,
        le=1,
    )
    min_saving: float = param(
        0.1,
        "from which share of the champion's words saved on, for sure, a shorter output counts as a gain",
        ge=0,
        lt=1,
    )
    max_slice_loss: float = param(
        0.0,
        "how far a slice may fall for sure against SFT or the champion. 0, since a fall beyond chance has a "
        "cause, and nobody should pay for the gain of others; 1 for no such rule",
        ge=0,
        le=1,
    )
    min_slice_rate: float = param(
        0.25, "no slice's whole interval may lie below this; 0 for no such rule", ge=0, le=1
    )
    refuse_hacking: bool = param(
        True, "also require that the preference did not fall during PPO while the reward rose"
    )
    max_unsafe_share: float = param(
        0.02,
        "how far the share of outputs with banned words, personal data, repetition or no text may exceed the "
        "references'; 1 for no such rule",
        ge=0,
        le=1,
    )


class Settings(Section):
    """All of params.yaml."""

    seed: int = param(17, "seed of everything random", ge=0, le=2**31 - 1)
    threads: int = param(
        2, "CPU threads of a training process; results are exact per thread count", "threads", ge=1, le=256
    )
    processes: int = param(
        1,
        "processes that train SFT, the reward model and PPO, each with `threads` threads or one GPU",
        "processes",
        ge=1,
        le=1024,
    )
    ingest: Ingest = Ingest()
    prepare: Prepare = Prepare()
    validate_: Validate = Field(Validate(), alias="validate")
    base: Base = Scratch()
    sft: Sft = Sft()
    collect: Collect = Collect()
    reward: Reward = Reward()
    ppo: Ppo = Ppo()
    evaluate: Evaluate = Evaluate()
    register_: Register = Field(Register(), alias="register")


def load_settings(path: Path | str = "params.yaml") -> Settings:
    """Read and validate a params file.

    Raises:
        SettingsError: no such file, no YAML, an unknown key, or a value of the wrong type or out of bounds.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or number
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return check_settings(values if values is not None else {}, str(path))


def check_settings(values: Any, origin: str) -> Settings:
    """Validate nested values; `origin` names them in the error."""
    if not isinstance(values, dict):
        raise SettingsError(f"{origin}: expected sections of parameters, got {type(values).__name__}")
    for section, keys in RENAMED.items():
        if section in values:
            raise SettingsError(f"{origin}: unknown key {section!r}: {_renamed(section, keys)}")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise SettingsError(f"{origin}: {_sentence(error.errors()[0])}{more}") from None


def _sentence(error: Any) -> str:
    """What is wrong with a value, and which parameter it has."""
    place = [str(part) for part in error["loc"] if "[" not in str(part)]  # without the members of a union
    variant = BASES.get(place[1]) if place[0] == "base" and len(place) > 1 else None
    if variant:
        del place[1]  # pydantic names the type there
    key = ".".join(place)
    if error["type"] == "union_tag_invalid":
        types = " or ".join(map(repr, BASES))
        return f"{key}.type: Input should be {types}, got {error['ctx']['tag']!r}"
    if error["type"] == "missing":
        return f"{key}: {error['msg']}"
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']}, got {error['input']!r}"
    if variant and len(place) == 2:
        kind = variant.model_fields["type"].default
        others = [name for name, other in BASES.items() if place[1] in other.model_fields]
        known = [name for name in variant.model_fields if name != "type"]
        close = difflib.get_close_matches(place[1], known, n=1)
        hint = f"; set base.type to {others[0]}" if others else ""
        hint = f"; did you mean {'base.' + close[0]!r}?" if close and not others else hint
        return f"unknown key {key!r} where base.type is {kind}, which has {', '.join(known)}{hint}"
    close = difflib.get_close_matches(key, known_keys(), n=1)
    return f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")


# Sections that there were once, with their parameters, which are in the section `base` now.
RENAMED = {
    "model": ("scale", "tokenizer", "vocab_size", "context"),
    "pretrain": ("steps", "batch_size", "learning_rate", "muon_learning_rate", "save_every"),
}


def renamed(key: str) -> str | None:
    """What a parameter that has had another name is called now, in words; None if it never had one."""
    section, _, name = key.partition(".")
    if section not in RENAMED:
        return None
    return f"{key} is base.{name} now" if name in RENAMED[section] else _renamed(section, RENAMED[section])


def _renamed(section: str, keys: tuple[str, ...]) -> str:
    return f"its parameters are in the section `base` now: {', '.join(f'base.{key}' for key in keys)}"


def known_keys() -> list[str]:
    """Every parameter as a dotted key, in order, whichever type of base has it."""
    return list(dict.fromkeys(key for key, _, _ in _fields(Settings)))


def describe() -> list[tuple[str, str, str, str]]:
    """Every parameter as (key, default, unit and bounds, description).

    A parameter that one type of base has, or has in another way, is named with the type: `base.scale
    (scratch)`.
    """
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for key, field, variant in _fields(Settings):
        rows.setdefault(_row(key, field), []).append(variant)
    return [
        row if variants in ([""], list(BASES)) else (f"{row[0]} ({', '.join(variants)})", *row[1:])
        for row, variants in rows.items()
    ]


def _fields(section: type[BaseModel], prefix: str = "", variant: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every parameter as (dotted key, field, type of base that has it)."""
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        if name == "base":
            for kind, inner in BASES.items():
                yield from _fields(inner, f"{key}.", kind)
            continue
        kinds = (field.annotation, *get_args(field.annotation))
        inner_section = next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)
        if inner_section is None or inner_section is not field.annotation:
            yield key, field, variant  # a section that may be null is a parameter too
        if inner_section is not None:
            yield from _fields(inner_section, f"{key}.", variant)


def _row(key: str, field: Any) -> tuple[str, str, str, str]:
    unit = (field.json_schema_extra or {}).get("unit", "")
    bounds = [
        f"{sign} {getattr(bound, attribute)}"
        for bound in field.metadata
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if hasattr(bound, attribute)
    ]
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        bounds = [" | ".join(choices)]
    default = "required" if field.default is PydanticUndefined else str(field.default)
    return key, default, " ".join([unit, ", ".join(bounds)]).strip(), field.description or ""


if __name__ == "__main__":
    print("| parameter | default | unit, bounds | meaning |\n|---|---|---|---|")
    for row in describe():
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
