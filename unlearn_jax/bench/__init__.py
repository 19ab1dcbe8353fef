"""The bench: every method on the same models, measured against the distribution of retrained models."""
