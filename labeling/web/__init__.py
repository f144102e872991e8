"""The labeling app: pages for labelers and operators, an HTTP API, and questions to the served model."""
