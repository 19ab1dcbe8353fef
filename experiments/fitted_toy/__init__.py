"""A toy in the plane, fitted so that models behave on it as on images."""
