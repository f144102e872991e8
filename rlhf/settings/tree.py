"""All of params.yaml as one tree of sections, and the table of every parameter in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, Field
from pydantic_core import PydanticUndefined

from rlhf.settings.data import Collect, Ingest, Prepare, Validate
from rlhf.settings.judging import Evaluate, Register
from rlhf.settings.models import BASES, Base, Scratch
from rlhf.settings.rl import Ppo
from rlhf.settings.section import Section, param
from rlhf.settings.training import Reward, Sft


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
