"""How many prompts a check of a judge needs."""

import pytest

from rlhf.measures.judge_checks import prompts_needed
from rlhf.measures.rates import wilson


@pytest.mark.parametrize(("rate", "threshold"), [(0.6, 0.5), (0.9, 0.75), (0.76, 0.75), (1.0, 0.75)])
def test_the_number_that_is_needed_is_the_first_that_passes(rate, threshold):
    def low(n):
        points = [1.0] * round(rate * n) + [0.0] * (n - round(rate * n))
        return wilson(points)[0] if sum(points) == rate * n else None

    needed = prompts_needed(rate, threshold, 0.95)
    passing = next(n for n in range(needed, needed + 100) if low(n) is not None)
    failing = next(n for n in range(needed - 1, 0, -1) if low(n) is not None)
    assert low(passing) > threshold >= low(failing) or needed == 12
    assert prompts_needed(threshold, threshold, 0.95) is None
