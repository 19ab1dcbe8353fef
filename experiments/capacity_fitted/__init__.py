"""Capacity where every size fits equally well: memorisation, an attack, and what unlearning leaves, over draws of the data."""
