"""The name of the package `labeling` until now: for one version its command still works."""
