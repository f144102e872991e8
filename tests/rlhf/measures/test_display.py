"""One rounding for every figure that people read, and no figure where there is none."""

import pytest

from rlhf.measures.display import (
    MISSING,
    cost_text,
    difference_text,
    interval_text,
    level_text,
    number,
    p_text,
    rate_text,
    signed,
)


def test_a_rate_has_the_three_decimals_of_the_json_and_is_no_percentage():
    row = {"rate": 0.3215, "low": 0.308949, "high": 0.366451}
    assert rate_text(row) == "0.322 (0.309 to 0.366)"
    assert (number(0.5), number(12.345, 1), signed(0.0304), signed(-0.00001)) == (
        "0.500",
        "12.3",
        "+0.030",
        "+0.000",
    )
    assert difference_text({"difference": -0.1, "low": -0.2, "high": 0.0}) == "-0.100 (-0.200 to +0.000)"
    assert (level_text(0.95), level_text(0.995)) == ("95\u00a0%", "99.5\u00a0%")
    assert (p_text(0.00001), p_text(0.0987), p_text(1.0)) == ("< 0.0001", "0.0987", "1")


def test_the_cost_of_a_run_is_a_time_and_a_peak():
    assert cost_text(7.4, 912.6) == "7 s, 913 MB at most"
    assert cost_text(214, 1234) == "3 min 34 s, 1,234 MB at most"
    assert cost_text(3665, 10) == "1 h 1 min, 10 MB at most"


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_what_is_no_number_is_a_dash(nothing):
    assert (number(nothing), signed(nothing), p_text(nothing)) == (MISSING,) * 3
    assert interval_text({"low": 0.1, "high": nothing}) == MISSING
    assert interval_text({}) == MISSING
