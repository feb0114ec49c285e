"""Engines that answer requests for text and for log-probabilities."""
