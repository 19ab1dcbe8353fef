"""How capacity (width, depth, steps, ...) changes the boundary and each point's exact influence."""
