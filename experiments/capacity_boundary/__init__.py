"""What capacity does to the boundary and to each point's exact influence: width, depth, steps, ...."""
