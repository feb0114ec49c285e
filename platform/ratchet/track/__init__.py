"""Tracking: JSON lines always, wandb when configured, progress for people."""
