"""The explorer of a toy, as a page holds it: the boundary with all points and without each, and what each point does."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

STEPS = 1 << 16  # of a coordinate, in a cell of the grid
MOST = 5 << 20  # characters of all outlines in a page
DIGITS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8)


def outline(surface: Float[np.ndarray, "classes rows columns"]) -> str:
    """Returns the boundaries between classes, where margins on a grid are zero, as a short text, each once.

    Lines are separated by semicolons. Each is its first point, `x,y`, a colon, and six characters for each step to the next
    point: three digits of base 64 for x and three for y, plus 2^17. The unit is 2^-16 of a cell of the grid, from its first row
    and column. It is empty where no margin changes its sign.
    """
    from contourpy import contour_generator

    found = []
    for label, margins in enumerate(surface[:-1]):
        if margins.min() < 0 < margins.max():
            first = np.delete(surface, label, axis=0).argmax(axis=0) >= label  # where the next best class is a later one
            for line in contour_generator(z=margins).lines(0.0):
                found += _parts(np.asarray(line), first)
    return ";".join(_packed(np.rint(STEPS * line).astype(int)) for line in found)


def _parts(line: Float[np.ndarray, "points 2"], kept: Bool[np.ndarray, "rows columns"]) -> list[Float[np.ndarray, "part 2"]]:
    """The parts of a line near the nodes of the grid that are kept."""
    column, row = np.rint(line).astype(int).T
    points = kept[row, column]
    steps = points[1:] | points[:-1]
    parts = np.split(np.arange(len(steps)), np.flatnonzero(np.diff(steps)) + 1)
    return [line[part[0] : part[-1] + 2] for part in parts if steps[part[0]]]


def _packed(places: Int[np.ndarray, "points 2"]) -> str:
    steps = np.diff(places, axis=0).ravel() + 2 * STEPS
    x, y = places[0]
    return f"{x},{y}:{DIGITS[np.stack([steps >> 12, steps >> 6 & 63, steps & 63], axis=-1)].tobytes().decode()}"


class Layer(NamedTuple):
    """One network from one seed. Displacements are distances in the plane.

    Attributes:
        boundary: the outline of the boundary with all points.
        without: the outline without each point; empty if they were not kept.
        furthest: x and y of the place where the boundary moves most without each point, how far (positive: into the class),
            and the class; empty if not kept.
        noise: the largest displacement by rounding alone.
        scores: by measure, of each point; the first is the displacement that ranks them.
    """

    boundary: str
    without: Sequence[str]
    furthest: Float[np.ndarray, "furthest 4"]
    noise: float
    scores: Mapping[str, Float[np.ndarray, " points"]]


class Measure(NamedTuple):
    """What points can be coloured by.

    Attributes:
        title: in a list.
        group: the list's part: exact, or estimated.
        about: a sentence.
    """

    title: str
    group: str
    about: str


def furthest(
    moved: Float[np.ndarray, "points places"], line: Float[np.ndarray, "places 2"], classes: Int[np.ndarray, " places"]
) -> Float[np.ndarray, "points 4"]:
    """Returns where the boundary moves most without each point, see `Layer`.

    Args:
        moved: how far, at each place of the boundary with all points; positive: into the class.
        line: the places.
        classes: whose boundary it is there.
    """
    most = np.abs(moved).argmax(axis=1)
    return np.column_stack([line[most], moved[np.arange(len(moved)), most], classes[most]]).astype(float)


def explorer(
    window: tuple[float, float, float, float],
    resolution: int,
    points: Float[np.ndarray, "points 2"],
    labels: Int[np.ndarray, " points"],
    clean_labels: Int[np.ndarray, " points"],
    measures: Mapping[str, Measure],
    layers: Mapping[str, Layer],
    axes: Mapping[str, Sequence[tuple[str, Mapping[str, str]]]],
) -> dict[str, Any]:
    """Returns what `explorer.js` reads. Where the outlines are too long for a page, those of the least points stay out.

    Args:
        window: left, right, bottom and top.
        resolution: grid points along each side.
        points: their coordinates.
        labels: as trained on.
        clean_labels: without label noise.
        measures: by name, in the order of the list.
        layers: by name, the first is shown first.
        axes: by option that is varied, its values in order, each with the names of the layers by seed.
    """
    within = _within(layers)
    return {
        "kind": "toy",
        "window": window,
        "steps": STEPS * (resolution - 1),
        "points": points,
        "labels": labels,
        "clean": clean_labels,
        "measures": {name: measure._asdict() for name, measure in measures.items()},
        "axes": [[axis, [[value, seeds] for value, seeds in values]] for axis, values in axes.items()],
        "layers": {
            name: {
                "boundary": layer.boundary,
                "without": [text if point in within[name] else None for point, text in enumerate(layer.without)],
                "furthest": layer.furthest,
                "noise": layer.noise,
                "scores": layer.scores,
            }
            for name, layer in layers.items()
        },
    }


def _within(layers: Mapping[str, Layer]) -> dict[str, set[int]]:
    """By layer, the points whose outlines fit into the page: those of most displacement in all layers come first."""
    kept: dict[str, set[int]] = {name: set() for name in layers}
    ranked = []
    for name, layer in layers.items():
        order = np.argsort(-next(iter(layer.scores.values())), kind="stable")
        ranked += [(rank, name, point) for rank, point in enumerate(order.tolist()) if point < len(layer.without)]
    left = MOST - sum(len(layer.boundary) for layer in layers.values())
    for _, name, point in sorted(ranked):
        left -= len(layers[name].without[point])
        if left < 0:
            break
        kept[name].add(point)
    return kept
