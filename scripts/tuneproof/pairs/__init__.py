"""Data sets: pairs written from chunks, screened, worded in several ways, and split by page."""
