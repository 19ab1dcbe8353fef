"""The influence of each training point on the boundary: exact leave-one-out on a toy."""
