"""One file per stage of dvc.yaml: read inputs, call the library, write outputs, log to MLflow."""
