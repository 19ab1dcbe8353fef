"""Every method forgets each point of a toy, compared with exact leave-one-out."""
