"""Unlearning in one forward pass of a hypernetwork that was trained on other forget sets."""
