"""Sweeps: many runs of one plan, which share all that they have in common."""
