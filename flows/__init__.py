"""What runs, when and where: Prefect flows over the graph that DVC owns."""

import os

import rlhf  # noqa: F401  (sets how idle threads wait, for this process and the stages it starts)

# Set before any of the libraries is imported: nothing phones home unless the user turns it on.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# How often Prefect's client tries again: 7 times are four minutes, time enough to start a server again.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "7")
