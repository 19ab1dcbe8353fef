"""Fooling critics of the outputs: whether forgotten examples come to look as retraining would have them, and why."""
