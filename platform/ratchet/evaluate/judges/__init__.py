"""Judges of answers: who they are, what they are asked, and what is read from their judgments."""
