"""Searches for hyper-parameters: what the runs of a grid say, and how sure that is."""
