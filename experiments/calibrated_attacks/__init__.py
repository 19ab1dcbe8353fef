"""What each characteristic adds to a likelihood-ratio attack that knows every example's own distribution."""
