"""What people are shown: the report of a run, its charts, preference by model size."""
