"""What is written in the cells of a heat map, for tests of figures."""

import numpy as np
from matplotlib.colors import to_hex


def cells(axes):
    """Text and colour by row and column, as `drawing.write_cells` drew them."""
    written = {}
    for stamped in axes.collections:
        for column, row in np.asarray(stamped.get_offsets()).astype(int):
            written[int(row), int(column)] = stamped.get_label().removeprefix("_"), to_hex(stamped.get_facecolor()[0])
    return dict(sorted(written.items()))
