"""Losses, exactly as the papers state them."""
