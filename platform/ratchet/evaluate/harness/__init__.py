"""Tasks of lm-eval: its definitions and its scoring, around engines of ours."""
