"""Learning from given data: pretraining, supervised fine-tuning, reward modelling."""
