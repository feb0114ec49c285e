"""Processes of Ray begin warm: a server on each node has done the imports, and forks them."""
