"""What each family of methods can do, where it fails, and for whom it is right: one text from the committed tables."""
