"""Unlearning as overfitting: the gap, memorisation, an attack and the cost of unlearning against depth, width, ...."""
