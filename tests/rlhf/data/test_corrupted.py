"""References made worse: each fault is what its name says, and none is the reference."""

from __future__ import annotations

import random
from collections import Counter

from rlhf.data.corrupted import FAULTS, corrupted

TEXT = "We propose a faster sampler, and show that it keeps the quality of the slow baseline."
OTHERS = ["Graph networks predict molecular properties better than fingerprints do.", "A note on optimisers."]


def test_each_fault_is_what_its_name_says() -> None:
    made = dict(corrupted(TEXT, OTHERS, len(FAULTS), random.Random(1)))
    assert set(made) == set(FAULTS)
    assert made["other"] in OTHERS
    assert Counter(made["shuffled"].split()) == Counter(TEXT.split())
    assert made["shuffled"] != TEXT
    assert TEXT.startswith(made["cut"])
    assert 5 <= len(made["cut"].split()) <= 11
    half = " ".join(TEXT.split()[:8])
    assert made["repeated"] == f"{half} {half}"
    swapped = made["swapped"].replace(",", "").replace(".", "").split()
    ours = TEXT.replace(",", "").replace(".", "").split()
    changed = [(a, b) for a, b in zip(ours, swapped, strict=True) if a != b]
    # Ten of the words have four letters or more; half of them, or all that the other text has.
    assert 2 <= len(changed) <= 5
    assert all(len(a) >= 4 and any(b in text for text in OTHERS) for a, b in changed)


def test_as_many_as_are_wanted_and_never_the_reference() -> None:
    for seed in range(50):
        made = corrupted(TEXT, [TEXT, *OTHERS], 2, random.Random(seed))
        assert len({text for _, text in made}) == len(made) == 2
        assert TEXT not in {text for _, text in made}
    assert corrupted(TEXT, OTHERS, 3, random.Random(5)) == corrupted(TEXT, OTHERS, 3, random.Random(5))
    # One word cannot be cut or shuffled, and there is no other text to take words of.
    assert corrupted("Yes", [], 5, random.Random(1)) == [("repeated", "Yes Yes")]
    assert corrupted(TEXT, OTHERS, 0, random.Random(1)) == []
