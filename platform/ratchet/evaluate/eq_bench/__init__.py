"""EQ-Bench: how strongly a character feels, held against references."""
