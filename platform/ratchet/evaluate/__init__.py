"""Evaluation of the models that a plan makes."""
