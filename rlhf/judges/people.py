"""People as judges: they judged before the evaluation, and their judgments are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.data.errors import DataError
from rlhf.judges.judge import Row


@dataclass
class HumanJudge:
    """People, who judged before.

    Attributes:
        rows: judgments by people, of the contract JUDGMENT.
        name: where they come from.
        kind: see `Judge`.
    """

    rows: Sequence[Row]
    name: str
    kind: str = "human"

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """See `Judge.judge`; the rows are as people wrote them, `shown_order` included.

        Raises:
            DataError: none of the judgments is about these pairs.
        """
        columns = ("policy", "prompt", "reference", "output")
        # White space around a text is not what people judged; the labeling app stores plain outputs without.
        asked = {tuple(pair[column].strip() for column in columns) for pair in pairs}
        judgments = [row for row in self.rows if tuple(row[column].strip() for column in columns) in asked]
        if not judgments:
            raise DataError(
                f"{self.name}: none of its {len(self.rows)} judgments is about these policies and texts; "
                "people must have seen the very outputs of this run"
            )
        return judgments
