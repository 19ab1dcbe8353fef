"""A toy in the plane on which models do as they do on images: its mixture is fitted."""
