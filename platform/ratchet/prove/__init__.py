"""The first updates of a plan, held against a plain float64 implementation that shares no code with the trainer."""
