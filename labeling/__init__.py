"""Labels: who preferred what, when, under which guideline."""
