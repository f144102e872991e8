"""A model in hand: loaded and saved, its tokens, its log-probabilities, its samples, its scores."""
