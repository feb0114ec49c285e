"""What a cluster lacks or leaves open, and what to do about it."""
