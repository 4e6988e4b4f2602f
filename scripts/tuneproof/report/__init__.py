"""The report: what was asked, the answer with its uncertainty, and everything a reader needs to doubt it."""
