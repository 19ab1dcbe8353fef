"""Which training examples are memorised, and which test predictions depend on them."""
