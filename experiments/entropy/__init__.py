"""When minimising, or maximising, the entropy and the loss on the forget set helps."""
