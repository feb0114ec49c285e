"""Models: loading, making, scoring, merging and exporting them."""
