"""Every parameter of the pipeline: one definition with description, unit and bounds.

`params.yaml` is validated against `Settings`; the Prefect form and the docs read the same definition.
`python -m rlhf.settings` prints the table. A module for each subject; others import the names from here.
"""

from rlhf.settings.data import Collect, FileSource, Ingest, Labels, Prepare, Reading, Validate
from rlhf.settings.judging import Evaluate, JudgeName, Llm, Register
from rlhf.settings.loading import RENAMED, check_settings, load_settings, params_of, read_params, renamed
from rlhf.settings.models import BASES, Base, Lora, Pretrained, Scratch, base_name, base_type
from rlhf.settings.rl import Ppo, RewardFunctions
from rlhf.settings.section import Section, SettingsError
from rlhf.settings.training import Reward, Sft, Training
from rlhf.settings.tree import Settings, describe, known_keys
from rlhf.settings.yaml_text import YamlError, yaml_value

__all__ = [
    "BASES",
    "RENAMED",
    "Base",
    "Collect",
    "Evaluate",
    "FileSource",
    "Ingest",
    "JudgeName",
    "Labels",
    "Llm",
    "Lora",
    "Ppo",
    "Prepare",
    "Pretrained",
    "Reading",
    "Register",
    "Reward",
    "RewardFunctions",
    "Scratch",
    "Section",
    "Settings",
    "SettingsError",
    "Sft",
    "Training",
    "Validate",
    "YamlError",
    "base_name",
    "base_type",
    "check_settings",
    "describe",
    "known_keys",
    "load_settings",
    "params_of",
    "read_params",
    "renamed",
    "yaml_value",
]
