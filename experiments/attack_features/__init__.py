"""Which characteristics beyond the loss show that an example was trained on."""
