"""The columns of known data sets, and what they mean: a row of a table for each."""
