"""The page of a sweep: its values, its words, its drawings of stages, what it says of itself."""
