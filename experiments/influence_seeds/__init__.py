"""What of a point's exact influence belongs to the point and what to the seed: leave-one-out from many seeds."""
