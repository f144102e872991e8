"""Learning from the policy's own samples: proximal policy optimisation."""
