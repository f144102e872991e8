"""The examples in docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest

EXAMPLES = {
    "rlhf.data.rankings": ("agreement_on_pairs",),
    "rlhf.models.batches": ("batch_of", "token_batches"),
    "rlhf.models.packing": ("pack",),
    "rlhf.rl.advantages": ("gae", "token_rewards"),
}


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_docstrings_are_right(module: str) -> None:
    loaded = importlib.import_module(module)
    with_examples = {
        test.name.rpartition(".")[2] for test in doctest.DocTestFinder().find(loaded) if test.examples
    }
    assert with_examples >= set(EXAMPLES[module])
    assert doctest.testmod(loaded).failed == 0
