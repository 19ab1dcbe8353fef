"""Variance over seeds: in the loss (bias and variance), on lines between models, in the sharpness of minima."""
