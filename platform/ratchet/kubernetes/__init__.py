"""Manifests that follow a plan, and what is wrong with manifests."""
