"""Fine-tuning: recipes, checkpoints that survive a kill, and the log of a run."""
