"""A model in hand: loading and saving it, its tokens, its log-probabilities, its samples, its scores."""
