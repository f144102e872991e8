"""The figure by size: its numbers, the shape that is looked for, and its files."""

from __future__ import annotations

import pytest

from rlhf.measures.rates import wilson
from rlhf.report.by_size import as_png, ladder, markdown_table, shape, size_chart
from rlhf.report.drawing import svg_text


def evaluation(pretrained: int, sft: int, ppo: int, judge: str = "gold") -> dict[str, object]:
    """200 judgments a policy, none a tie but 10 of each."""
    counts = {"pretrained": pretrained, "sft": sft, "ppo": ppo}
    policies = {
        name: {"wins": wins, "ties": 10, "losses": 190 - wins, "rate": (wins + 5) / 200}
        for name, wins in counts.items()
    }
    return {"judge": {"name": judge, "kind": judge}, "policies": policies}


CELLS = [
    ("1M", 18, 1.1e6, evaluation(60, 105, 150)),
    ("0.1M", 17, 1e5, evaluation(20, 50, 80)),
    ("1M", 17, 1.1e6, evaluation(62, 107, 152)),
    ("0.1M", 18, 1e5, evaluation(22, 52, 82)),
]


def test_seeds_are_pooled_and_shown() -> None:
    small, large = ladder(CELLS)
    assert (small["size"], small["seeds"], large["size"], large["parameters"]) == (
        "0.1M",
        [17, 18],
        "1M",
        1.1e6,
    )
    sft = large["policies"]["sft"]
    assert sft["rate"] == pytest.approx((105 + 107 + 10) / 400)
    assert sft["by_seed"] == pytest.approx([112 / 200, 110 / 200])
    assert sft["n"] == 400
    expected = wilson([1.0] * 212 + [0.5] * 20 + [0.0] * 168)
    assert (sft["low"], sft["high"]) == pytest.approx(expected)


def test_one_figure_has_one_judge() -> None:
    with pytest.raises(ValueError, match="one judge"):
        ladder([*CELLS, ("3M", 17, 3e6, evaluation(90, 120, 170, judge="simulated"))])


def test_the_shape_is_looked_for() -> None:
    assert all(shape(ladder(CELLS)).values())
    flat = shape(ladder([*CELLS, ("3M", 17, 3e6, evaluation(60, 110, 110))]))
    broken = {expectation for expectation, holds in flat.items() if not holds}
    assert broken == {
        "pretrained rises with size",
        "PPO rises with size",
        "PPO above SFT at every size",
        "PPO above SFT, intervals apart, at the largest three",
    } | ({"SFT rises with size"} if (110 + 5) / 200 <= (212 + 10) / 400 else set())


def test_the_figure_is_written_the_same_twice() -> None:
    rows = ladder(CELLS)
    assert svg_text(size_chart(rows, "gold")) == svg_text(size_chart(rows, "gold"))
    assert as_png(size_chart(rows, "gold")) == as_png(size_chart(rows, "gold"))
    assert "0.330 (" in markdown_table(rows)  # pretrained of 1M: (60 + 62 + 10) / 400
