"""What a program of ours sets for its own process before it loads a library.

A command calls `settle` in its first lines, before its other imports: libgomp and the libraries below read
their variables as they are loaded. Importing a module of ours sets none of this, so a notebook that uses the
library keeps its own settings. The standard library alone is imported here, and no module of ours that
imports more.
"""

from __future__ import annotations

import atexit
import gc
import os

from tasks.runtime.libraries import load_lazily

VARIABLES = {
    # Nothing phones home unless the user turns it on.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # How often Prefect's client tries again: 7 times are four minutes, long enough to restart a server.
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    # By default an idle OpenMP thread spins long, and on a busy machine it keeps the thread that it waits for
    # from running: training becomes two to ten times slower. A thread that sleeps at once makes a quiet
    # machine slower by half. So threads spin for a short time and then sleep; results are the same.
    "GOMP_SPINCOUNT": "10000",
    # oneDNN keeps a compiled product for each shape, by default 1,024 of them in two caches: up to 400 MB in
    # bf16 with sequences of all lengths. Results are the same.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}


def defaults() -> dict[str, str]:
    """The variables above that the user has not set, for this process or for one that it starts."""
    unset = {name: value for name, value in VARIABLES.items() if name not in os.environ}
    if "OMP_WAIT_POLICY" in os.environ:  # it says the same as the count does
        unset.pop("GOMP_SPINCOUNT", None)
    return unset


def settle() -> None:
    """Set this process's environment, imports and garbage collector; a variable that the user set stays."""
    os.environ.update(defaults())
    load_lazily()
    # A sixth of a stage's start-up was the collector walking over modules that live as long as the process.
    gc.set_threshold(100_000, 20, 100)
    # At exit Python would collect them once more, which takes up to two seconds a stage.
    atexit.register(gc.freeze)
