"""Conceptual or factual: an LLM annotates some pairs, a classifier labels the rest, and each type is drawn."""
