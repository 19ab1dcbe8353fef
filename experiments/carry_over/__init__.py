"""Whether the methods' order carries over to clean labels, other networks and other data, and how far noise alone reorders them."""
