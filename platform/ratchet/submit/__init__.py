"""A plan goes to a cluster as a job, and its log comes back."""
