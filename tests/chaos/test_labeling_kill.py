"""The labeling app killed by SIGKILL while people answer: nothing acknowledged is lost or doubled."""

from __future__ import annotations

from benchmarks.labeling import Load, measure


def test_a_killed_server_loses_and_doubles_nothing(url: str) -> None:
    found = measure(url, Load(people=10, judgments=150, pause=0.05, kills=2))
    assert found["judgments"] == found["stored"] == 150
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert (found["items_with_two_labels"], found["items_over_target"]) == (0, 0)
    assert found["retries"] > 0  # the kills were felt
