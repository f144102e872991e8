"""Rules about near-duplicates: prompts within a split and across splits, and demonstrations of such prompts.

Which prompts are near-duplicates `prepare` has computed for the splits, by MinHash
(`rlhf/data/near_duplicates.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.contracts import SPLITS
from rlhf.data.near_duplicates import shared
from tasks.rules.rule import TEXTS, Mask, Rule
from tasks.rules.view import Numbers, View, numpy, split_codes

_BACK = 4  # answers to a prompt, or to its near-duplicates, with which the next is compared


def _groups(view: View) -> Numbers:
    """A number for each row that is the same for near-duplicates of a split, -1 where a prompt has none."""
    if "groups_" not in view.__dict__:
        splits = view.column("split").combine_chunks().dictionary_encode()
        codes = numpy(pc.fill_null(splits.indices, -1)).astype(np.int64)
        groups = view.groups
        view.__dict__["groups_"] = np.where(groups < 0, -1, groups * 16 + codes + 1)
    return view.__dict__["groups_"]


def _prompts(view: View, _: Any) -> Mask:
    groups = _groups(view)
    return (groups >= 0) & pd.Series(groups).duplicated().to_numpy()


def _near_which(view: View, number: int) -> str:
    first = int(np.flatnonzero(_groups(view) == _groups(view)[number])[0])
    return f"prompt {ascii(view.row(number)['prompt'])[:40]}, near to that of {view.place(first)}"


def _most_held_out(view: View) -> pd.Series[int]:
    """For each group of near-duplicates that stands in several splits, the most held-out of them, over all
    tables; kept with the views because each table asks for it."""
    home = next(iter(view.beside.values())).__dict__
    if "most_held_out" not in home:
        frames = [
            pd.DataFrame({"group": other.groups, "split": split_codes(other)}).drop_duplicates()
            for other in view.beside.values()
            if other.name in TEXTS
        ]
        every = pd.concat(frames)
        splits = every[(every["group"] >= 0) & (every["split"] >= 0)].groupby("group")["split"]
        home["most_held_out"] = splits.max()[splits.nunique() > 1]
    return home["most_held_out"]


def _apart(view: View, _: Any) -> Mask:
    """Rows whose prompt is a near-duplicate of one that is held out more; the copy that is held out stays."""
    most = _most_held_out(view)
    if most.empty:
        return np.zeros(view.size, bool)
    held_out = pd.Series(view.groups).map(most).fillna(-1).to_numpy()
    codes = split_codes(view)
    return (codes >= 0) & (codes < held_out)


def _apart_from(view: View, number: int) -> str:
    split = SPLITS[int(_most_held_out(view)[view.groups[number]])]
    row = view.row(number)
    return f"prompt {ascii(row['prompt'])[:40]} of split {row['split']}, near to one of split {split}"


def _demonstrations(view: View, share: float) -> Mask:
    """Rows that say nearly the same as another: the prompt is the same or near to it, and the answer too."""
    broken = np.zeros(view.size, bool)
    groups = _groups(view)
    keys = np.where(groups >= 0, groups.astype(np.uint64), view.prompts)
    order = np.argsort(keys, kind="stable")
    alike = np.zeros(view.size, bool)
    alike[1:] = keys[order][1:] == keys[order][:-1]
    alike[:-1] |= alike[1:]
    rows = order[alike]
    if not len(rows):
        return broken
    texts = _texts_at(view, rows)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    for back in range(1, _BACK + 1):
        earlier, later = np.arange(len(rows) - back), np.arange(back, len(rows))
        # Texts with most of their words in common are of similar length.
        few, many = np.minimum(lengths[earlier], lengths[later]), np.maximum(lengths[earlier], lengths[later])
        near = (keys[rows[earlier]] == keys[rows[later]]) & (few >= share * share * many)
        for a, b in zip(earlier[near].tolist(), later[near].tolist(), strict=True):
            if shared(texts[a], texts[b]) >= share:
                broken[max(rows[a], rows[b])] = True
    return broken


def _texts_at(view: View, rows: Numbers) -> list[str]:
    """The completions of rows, in their order."""
    wanted, parts, begin = np.sort(rows), [], 0
    for batch in view.batches(["completion"]):
        own = wanted[(wanted >= begin) & (wanted < begin + batch.size)] - begin
        parts += values_of(batch["completion"].take(pa.array(own)))
        begin += batch.size
    return [parts[place] or "" for place in np.searchsorted(wanted, rows).tolist()]


RULES = (
    Rule(
        "near_duplicate_prompt",
        ("prompts",),
        "no prompt is a near-duplicate of another in its split, or the same in another spelling",
        "many prompts that ask the same weigh as one, and figures by prompt count it several times",
        "leave the row out, set validate.rules to {near_duplicate_prompt: quarantine}, or raise "
        "prepare.near_duplicates",
        severity="warn",
        show=_near_which,
        rows=_prompts,
    ),
    Rule(
        "near_prompt_held_out",
        TEXTS,
        "no prompt is a near-duplicate of one that is held out more (train, validation, judge, test)",
        "an evaluation on a prompt that was trained on with a word changed measures memory",
        "leave the row out, give both the same split, or set validate.rules to {near_prompt_held_out: "
        "quarantine}; {near_prompt_held_out: stop} refuses it",
        severity="warn",
        show=_apart_from,
        rows=_apart,
    ),
    Rule(
        "near_duplicate_demonstration",
        ("demonstrations",),
        "no two answers to a prompt, or to its near-duplicates, have {threshold} of their words in common",
        "a row that stands twice counts twice, with a word changed too",
        "leave the row out, or set validate.rules to {near_duplicate_demonstration: quarantine}",
        severity="warn",
        threshold=0.85,
        unit="share of words",
        show=("completion",),
        rows=_demonstrations,
    ),
)
