"""What others need to use an adapter: its model card, and the adapter merged into its base."""
