#!/usr/bin/env bash
# A training host that takes runs of the pool. In a clone of the repository, after `make run` has set it up once:
#   PREFECT_API_URL=https://prefect.example.org/api MLFLOW_TRACKING_URI=https://mlflow.example.org deploy/worker.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# Where they ask for a password: PREFECT_API_AUTH_STRING=name:password, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD
: "${PREFECT_API_URL:?name the Prefect server}" "${MLFLOW_TRACKING_URI:?name the MLflow server}"
export DVC_NO_ANALYTICS="${DVC_NO_ANALYTICS:-1}" MLFLOW_DISABLE_TELEMETRY="${MLFLOW_DISABLE_TELEMETRY:-true}"
export PREFECT_CLIENT_MAX_RETRIES="${PREFECT_CLIENT_MAX_RETRIES:-7}" # four minutes for a server that is started again
PATH="$PWD/.venv/bin:$PATH" exec prefect worker start --pool "${RLHF_POOL:-rlhf}" --type process --limit "${RUNS:-1}"
