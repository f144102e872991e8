"""The library: data contracts, the built-in task, the three trainings, judges and statistics.

Knows no Prefect, no MLflow, no DVC, so every piece is usable from a notebook.
"""
