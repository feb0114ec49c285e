"""How fast, how large and how exact: measurements of Ratchet against TRL, and of its growth."""
