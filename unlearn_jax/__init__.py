"""Machine unlearning, measured against the distribution of models retrained without the forget set."""
