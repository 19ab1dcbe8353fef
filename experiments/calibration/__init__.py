"""How often a perfect method is called outside: the verdict's false-positive rate."""
