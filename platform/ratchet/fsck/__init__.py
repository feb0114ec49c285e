"""Looking through a store: what is whole, damaged, unfinished or left over, and mending it."""
