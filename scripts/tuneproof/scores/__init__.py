"""From answers to numbers: facts recalled, ROUGE, judges, and what the differences are worth."""
