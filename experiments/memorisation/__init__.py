"""Which examples are memorised, and which test answers hang on which of them."""
