"""The services on this machine: Prefect, MLflow, a worker, the labeling app, and the pages of the runs."""
