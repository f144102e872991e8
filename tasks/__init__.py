"""One file per stage of dvc.yaml: read inputs, call the library, write outputs, log to MLflow."""

import atexit
import gc
import os

import rlhf  # noqa: F401  (sets how idle threads wait, before a stage imports torch)

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when great_expectations is imported
# A sixth of a stage's start-up was the collector walking over modules that never die.
gc.set_threshold(100_000, 20, 100)
# At its end Python would collect them once more: up to two seconds a stage.
atexit.register(gc.freeze)
