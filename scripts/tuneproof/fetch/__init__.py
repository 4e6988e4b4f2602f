"""Weights: fetched from the hub or the package index, trusted by digest, and made ready for training."""
