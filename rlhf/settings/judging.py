"""Parameters of the evaluation: judges, the language model among them, the registry and the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from rlhf.settings.section import Section, param

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

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str | None) -> str | None:
        if url and ("@" in url or "?" in url):
            raise ValueError(
                "it holds a name, a password or a query, and parameters are shown on every page of a run; "
                "put the key into the variable that evaluate.llm.key_variable names"
            )
        return url


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
    rouge: bool = param(
        False, "whether ROUGE (Lin 2004) with the references is measured beside the judges; for summaries"
    )
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
