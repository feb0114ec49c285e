"""Training: the loop, its batches, its engines, its checkpoints."""
