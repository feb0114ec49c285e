"""What is right or wrong with a cluster: a function for each check, from facts to a finding."""
