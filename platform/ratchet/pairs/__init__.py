"""Preference pairs: from source files to token ids."""
