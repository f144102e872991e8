"""What judgments and rewards say: rates with intervals, agreement, trust in judges, the rules of the gate."""
