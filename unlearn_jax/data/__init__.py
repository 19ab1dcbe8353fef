"""What is trained on: image data sets, and the examples that are to be forgotten."""
