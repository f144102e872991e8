"""Learning from data at hand: pretraining, supervised fine-tuning, reward modelling."""
