"""Published dialogues with summaries: read in their layouts, cleaned, as rows."""
