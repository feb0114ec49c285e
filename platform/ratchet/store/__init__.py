"""The store: fingerprints, records, and files that appear whole or not at all."""
