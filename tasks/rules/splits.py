"""Rules of splits: each row is in a known one, and each prompt in one alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.contracts import SPLITS
from tasks.rules.rule import TEXTS, Mask, Rule
from tasks.rules.view import PROMPTS, View, numpy, split_codes


def _prompts_of_two_splits(view: View) -> np.ndarray[Any, Any]:
    """Their hashes, over all tables; kept with the views because each table asks for them."""
    home = next(iter(view.beside.values())).__dict__
    if "prompts_of_two_splits" not in home:
        frames = [
            pd.DataFrame({"prompt": other.prompts, "split": split_codes(other)}).drop_duplicates()
            for other in view.beside.values()
            if other.name in TEXTS
        ]
        every = pd.concat(frames).drop_duplicates()
        every = every[every["split"] >= 0]
        home["prompts_of_two_splits"] = every["prompt"][every["prompt"].duplicated()].unique()
    return home["prompts_of_two_splits"]


def _two_splits(view: View, _: Any) -> Mask:
    twice = _prompts_of_two_splits(view)
    return np.isin(view.prompts, twice) if len(twice) else np.zeros(view.size, bool)


def _which_splits(view: View, number: int) -> str:
    own = view.prompts[number]
    codes = {
        code
        for other in view.beside.values()
        if other.name in TEXTS
        for code in split_codes(other)[other.prompts == own]
        if code >= 0
    }
    return f"its splits are {' and '.join(sorted(SPLITS[code] for code in codes))}"


RULES = (
    Rule(
        "split_known",
        TEXTS,
        f"the split is one of {', '.join(SPLITS)}",
        "rows of another split would be read by no stage",
        "name one of them or none",
        show=("split",),
        batch=lambda batch, _: ~numpy(pc.is_in(batch["split"], pa.array(SPLITS))),
    ),
    Rule(
        "one_split",
        TEXTS,
        "a prompt is in one split",
        "an evaluation on a prompt that was trained on measures memory",
        "give all rows of a prompt the same split",
        show=_which_splits,
        rows=_two_splits,
        needs=(PROMPTS,),
    ),
)
