"""The library: data contracts, the built-in task, the three trainings, judges and statistics.

Knows no Prefect, no MLflow, no DVC, so every piece is usable from a notebook.
"""

import os

# An idle OpenMP thread spins by default, and on a busy machine it keeps the thread that it waits for from
# running: training becomes many times slower. libgomp reads both variables when torch is loaded, and every
# package here imports this one first. Results are the same; a person's own setting of either one wins.
if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ["GOMP_SPINCOUNT"] = "0"
