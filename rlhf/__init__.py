"""The library: data contracts, the built-in task, the three trainings, judges and statistics.

Knows no Prefect, no MLflow, no DVC, so every piece is usable from a notebook.
"""

import os

# By default an idle OpenMP thread spins long, and on a busy machine it keeps the thread that it waits for
# from running: training becomes twice to ten times slower. One that sleeps at once makes a quiet machine
# slower by half. So threads spin shortly, then sleep. libgomp reads the count when torch is loaded, and every
# package here imports this one first. Results are the same; a person's own setting of either variable wins.
if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
    os.environ["GOMP_SPINCOUNT"] = "10000"
