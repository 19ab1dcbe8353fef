"""Every method forgets each point of a toy: held against exact leave-one-out."""
