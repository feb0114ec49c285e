"""MT-Bench: conversations in FastChat's format, rated by a judge."""
