"""The pipeline: a plan becomes steps, and steps become records."""
