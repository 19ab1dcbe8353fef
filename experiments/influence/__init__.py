"""What each training point did to the boundary: exact leave-one-out on a toy."""
