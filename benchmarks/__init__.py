"""What is measured against whom: one command each; results are kept in results/ with date and machine."""

import rlhf  # noqa: F401  (sets how idle threads wait, before a benchmark imports torch)
