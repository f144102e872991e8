"""One file per stage of dvc.yaml: read inputs, call the library, write outputs, log to MLflow."""

import os

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when great_expectations is imported
