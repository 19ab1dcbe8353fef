"""When it is useful to minimise, or to raise, the entropy and the loss on the forget set."""
