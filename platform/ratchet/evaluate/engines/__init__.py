"""Engines that run the model under evaluation, in processes of their own, and the journal of their answers."""
