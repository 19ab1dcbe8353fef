"""Which features beyond the loss reveal that an example was trained on."""
