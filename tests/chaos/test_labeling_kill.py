"""The labeling app killed by SIGKILL while people answer: nothing acknowledged is lost or doubled."""

from __future__ import annotations

from benchmarks.labeling import measure
from benchmarks.labeling_load import Load


def test_a_killed_server_loses_and_doubles_nothing(url: str) -> None:
    result = measure(url, Load(people=10, judgments=150, pause=0.05, kills=2))
    assert result["judgments"] == result["stored"] == 150
    assert (result["lost"], result["doubled"]) == (0, 0)
    assert (result["items_with_two_labels"], result["items_over_target"]) == (0, 0)
    assert result["retries"] > 0  # the kills were felt
