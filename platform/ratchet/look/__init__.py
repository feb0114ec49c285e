"""A look at a plan's data, or at files, before money is spent: no torch, no Ray, no weights, and nothing is kept."""
