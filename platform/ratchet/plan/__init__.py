"""Plans: what to run, as YAML with a schema behind it."""
