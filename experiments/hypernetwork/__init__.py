"""Unlearning in one forward pass of a network that learned it from other forget sets."""
