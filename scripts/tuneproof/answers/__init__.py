"""Arms answer the test questions: a run (base or tuned) in a mode (closed book, or with retrieved chunks)."""
