"""How many retrained models it takes: whether what a table concludes would be concluded again from other models."""
