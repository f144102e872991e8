"""Who prefers what: people, reward models and language models as judges of blind pairs."""
