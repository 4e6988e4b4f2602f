"""Tuneproof's library: a room per stage, and study, records, llm as the ground under all of them."""
