"""The served policy: an OpenAI-compatible HTTP server around the pipeline's own sampling."""
