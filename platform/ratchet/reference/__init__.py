"""Reference log-probabilities: scored once, kept for every stage, epoch and run."""
