"""What an operation does to places, found by trying it out.

The operation is given random numbers, and these numbers with the coordinates of their places added. What an output
element gains from the coordinates, divided by what it gains from a constant, is the coordinate that it stands for:
exactly so for anything that moves, drops, repeats or averages elements (permutations, reshapes, crops, flips, rolls,
paddings, resizing), on average over channels for learned filters. Functions of each element, and layers that mix
tokens but keep each in its place, are known by where the largest change arises when one place changes. For whole
networks in a layer of their own, the gradient of an output shows where it looks.
"""

import functools
import warnings
from typing import Any

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.flat_graph import FlatGraph, Step

Coordinates = tuple[np.ndarray, ...]  # nominal rows and columns, then the exact ones
Cell = tuple[float, ...]  # height and width
Found = tuple[Coordinates, Cell]
_STEPS = ((1.0, 1e-2), (255.0, 60.0))  # range of the numbers and size of their change; large: integers inside
_LIMIT = 2**27  # numbers in one tensor of a trial


def probe(graph: FlatGraph, step: Step, number: int, coordinates: Coordinates, cell: Cell) -> list:
    """For each output of ``step`` the coordinates of its elements and its cell, as its input ``number`` has them; None
    where no trial shows them."""
    shapes, made = graph.sizes(step.reads), graph.sizes(step.outputs)
    trial = _Trial(graph, step, number, shapes)
    results: list[Found | None] = [None] * len(made)
    with warnings.catch_warnings(), graph.in_float32():
        warnings.simplefilter("ignore", RuntimeWarning)
        if 8 * int(np.prod(shapes[number])) > _LIMIT:
            return results
        for search in (_stays, _moved, functools.partial(_stays, near=1), _filtered, _looked_at):
            for output, found in enumerate(results):
                if found is None and len(made[output]) > 0:
                    try:
                        results[output] = search(trial, output, made[output], coordinates, cell)
                    except (ValueError, TypeError, tf.errors.OpError):
                        continue  # whatever the user's operation does not take: the next trial may be to its liking
    return results


class _Trial:
    """Calls of one operation with its input ``number`` changed, and its other inputs random but the same."""

    def __init__(self, graph: FlatGraph, step: Step, number: int, shapes: list[tuple[int, ...]]):
        self.graph, self.step, self.number = graph, step, number
        rng = np.random.default_rng(0)
        self.inputs = [rng.uniform(0, 1, (1, *shape)).astype(np.float32) for shape in shapes]
        self.key = step.reads[number]

    def __call__(self, changes: np.ndarray, output: int, scale: float = 1.0) -> np.ndarray:
        """The output for the input as it is, then with each of ``changes`` added, in one batch."""
        changed = np.concatenate([self.inputs[self.number] * scale, self.inputs[self.number] * scale + changes])
        y = self.run(tf.constant(changed.astype(np.float32)))[output]
        y = tf.cast(y, tf.float32).numpy()
        if len(y) != len(changed):
            raise ValueError("the operation changes the number of images")
        if y.shape[1:] != tuple(self.graph.shapes[self.step.outputs[output]][1:]):
            raise ValueError("the operation returns another shape than it declares")
        return y

    def run(self, x: Any) -> list[Any]:
        keys = self.step.reads
        others = [tf.repeat(tf.constant(other), tf.shape(x)[0], axis=0) for other in self.inputs]
        return self.graph.compute(self.step, [x if k == self.key else o for k, o in zip(keys, others, strict=True)])


def _spread_axes(coordinates: Coordinates) -> list[int]:
    """The axes along which places differ."""
    return [a for a in range(coordinates[0].ndim) if any(c.shape[a] > 1 for c in coordinates[:2])]


def _stays(
    trial: _Trial, output: int, made: tuple, coordinates: Coordinates, cell: Cell, near: int = 0
) -> Found | None:
    """A change of one place makes the largest change at the same place."""
    shape = trial.inputs[trial.number].shape[1:]
    axes = _spread_axes(coordinates)
    if len(made) != len(shape) or any(made[a] != shape[a] for a in axes):
        return None
    rng = np.random.default_rng(1)
    spots = [tuple(int(rng.integers(shape[a])) for a in axes) for _ in range(5)]
    for scale in (1.0, 255.0):
        changes = np.zeros((len(spots), *shape), np.float32)
        for change, spot in zip(changes, spots, strict=True):
            at: list = [slice(None)] * len(shape)
            for a, i in zip(axes, spot, strict=True):
                at[a] = i
            change[tuple(at)] = scale * rng.choice([-1, 1], change[tuple(at)].shape)
        y = trial(changes, output, scale)
        size = np.abs(y[1:] - y[:1]).max(axis=tuple(1 + a for a in range(len(shape)) if a not in axes))
        if not (size.reshape(len(spots), -1).max(axis=1) > 0).all():
            continue
        largest = [np.unravel_index(np.argmax(one), one.shape) for one in size]
        if np.abs(np.array(largest) - np.array(spots)).max() <= near:
            return coordinates, cell
        return None
    return None


# Ramps ------------------------------------------------------------------------------------------------------------


def _gains(trial: _Trial, output: int, coordinates: Coordinates) -> tuple[np.ndarray, list[np.ndarray], list[tuple]]:
    """What the output gains from a constant, from each coordinate scaled to [0, 1], and these scales (low, span)."""
    shape = trial.inputs[trial.number].shape[1:]
    spans = [(np.nanmin(c), max(np.nanmax(c) - np.nanmin(c), 1e-6)) for c in coordinates]
    known = np.isfinite(coordinates[0] + coordinates[1])
    ramps = [np.where(known, (c - low) / span, 0) for c, (low, span) in zip(coordinates, spans, strict=True)]
    directions = np.stack([np.broadcast_to(r, shape) for r in (known.astype(float), *ramps)])
    for scale, size in _STEPS:
        y = trial(directions * size, output, scale).astype(np.float64)
        gains = (y[1:] - y[:1]) / size
        if np.abs(gains[0]).max() > 1e-6:
            break
    return gains[0], list(gains[1:]), spans


def _moved(trial, output, made, coordinates, cell) -> Found | None:
    """Elements moved, dropped, repeated or averaged as they are."""
    constant, gains, spans = _gains(trial, output, coordinates)
    largest = np.abs(constant).max()
    if not largest > 1e-6:
        return None
    valid = np.abs(constant) > 1e-2 * largest
    found = []
    for gain, (low, span), before in zip(gains, spans, coordinates, strict=True):
        values = np.where(valid, low + span * gain / np.where(valid, constant, 1), np.nan)
        allowed = 1e-3 + 3e-4 * span
        step = _smallest_step(before)
        if np.nanmin(values) < np.nanmin(before) - step or np.nanmax(values) > np.nanmax(before) + step:
            return None
        for axis in range(values.ndim):
            if np.nanmax(np.nanmax(values, axis) - np.nanmin(values, axis)) < allowed:
                values = np.nanmean(values, axis=axis, keepdims=True)
        snapped = _snapped(values, before, allowed)
        if snapped is None:
            return None
        found.append(snapped)
    return _straightened(found, coordinates, cell)


def _smallest_step(values: np.ndarray) -> float:
    steps = np.diff(np.unique(np.round(values[np.isfinite(values)], 2)))
    return float(steps.min()) if len(steps) else 1.0


def _snapped(values: np.ndarray, before: np.ndarray, allowed: float) -> np.ndarray | None:
    """The very coordinates that came in, where all are among them; new ones only if they vary along one axis."""
    known = np.unique(before[np.isfinite(before)])
    finite = np.isfinite(values)
    right = np.clip(np.searchsorted(known, values), 1, max(len(known) - 1, 1)) if len(known) > 1 else None
    if right is None:
        nearest = np.full(values.shape, known[0])
    else:
        below, above = known[right - 1], known[right]
        nearest = np.where(np.abs(values - below) <= np.abs(values - above), below, above)
    if (np.abs(values - nearest)[finite] < allowed).all():
        return np.where(finite, nearest, np.nan)
    return values if sum(n > 1 for n in values.shape) <= 1 else None


def _straightened(found: list[np.ndarray], before: Coordinates, cell: Cell) -> Found:
    """Evenly spaced coordinates where rows and columns have an axis each and values repeat, are clamped at the ends or
    are missing in a padding, which then lies outside of what came in."""
    cells = list(cell)
    for i in (0, 1):
        axes = [a for a in range(found[i].ndim) if found[i].shape[a] > 1]
        if len(axes) != 1 or found[1 - i].shape[axes[0]] > 1:
            continue
        for j in (i, i + 2):
            if found[j].size == found[i].size:
                found[j] = _even(found[j].ravel(), _smallest_step(before[j])).reshape(found[j].shape)
        steps = np.abs(np.diff(found[i].ravel()))
        if np.isfinite(steps).all():
            cells[i] = float(np.median(steps))
    return tuple(found), tuple(cells)


def _even(values: np.ndarray, before: float) -> np.ndarray:
    """``before`` is the step between the coordinates that came in."""
    n, finite = len(values), np.isfinite(values)
    if finite.sum() < 2:
        return values
    distinct = len(np.unique(np.round(values[finite], 2))) == finite.sum()
    places = np.flatnonzero(finite)
    half = max(len(places) // 2, 1)
    pairs = values[places[half:]] - values[places[: len(places) - half]]
    step = np.median(pairs / (places[half:] - places[: len(places) - half]))
    start = np.median(values[places] - step * places)
    line = start + step * np.arange(n)
    close = np.abs(values - line)[finite] <= 0.75 * max(before, abs(step))
    if distinct and not close.all():
        return values  # rolled: every element has a place of its own
    return line if close.mean() > 0.6 and abs(step) > 1e-6 else values


def _filtered(trial, output, made, coordinates, cell) -> Found | None:
    """Learned filters: the gains of all channels together."""
    constant, gains, spans = _gains(trial, output, coordinates)
    for channels in dict.fromkeys((len(made) - 1, 0)):
        weight = (constant**2).sum(axis=channels, keepdims=True)
        if len(made) not in (2, 3) or not (weight > 1e-12).all() or made[channels] < 2:
            continue
        found = []
        for gain, (low, span) in zip(gains, spans, strict=True):
            found.append(low + span * (gain * constant).sum(axis=channels, keepdims=True) / weight)
        regular = _on_two_axes(found) if len(made) == 3 else _as_tokens(found, 1 - channels)
        if regular is not None:
            return _straightened(regular, coordinates, cell)
    return None


def _on_two_axes(found: list[np.ndarray]) -> list[np.ndarray] | None:
    result, used = [], []
    for values in found:
        lines = []
        for axis in range(values.ndim):
            if values.shape[axis] > 1:
                others = tuple(a for a in range(values.ndim) if a != axis)
                line = _fitted(np.median(values, axis=others, keepdims=True))
                lines.append((_roughness(values, line), axis, line))
        roughness, axis, line = min(lines, key=lambda x: x[0], default=(np.inf, 0, values))
        if roughness > 0.35:
            return None
        result.append(line)
        used.append(axis)
    return result if used[0] != used[1] and used[0] == used[2] and used[1] == used[3] else None


def _roughness(values: np.ndarray, line: np.ndarray) -> float:
    """How far values lie from a straight line, in steps of that line."""
    return float(np.median(np.abs(values - line)) / max(np.ptp(line) / max(line.size - 1, 1), 1e-9))


def _fitted(line: np.ndarray) -> np.ndarray:
    at = np.arange(line.size)
    slope, start = np.polyfit(at, line.ravel(), 1)
    return (start + slope * at).reshape(line.shape)


def _as_tokens(found: list[np.ndarray], axis: int) -> list[np.ndarray] | None:
    """Tokens, row by row, of a grid whose size shows in where the columns repeat."""
    tokens = found[0].shape[axis]
    best: tuple[float, list[np.ndarray]] | None = None
    for rows in range(2, tokens // 2 + 1):
        if tokens % rows:
            continue
        grids, worst = [], 0.0
        for i, values in enumerate(found):
            square = values.reshape(rows, tokens // rows)
            line = _fitted(np.median(square, axis=1 - i % 2, keepdims=True))
            worst = max(worst, _roughness(square, line))
            grids.append(np.broadcast_to(line, square.shape).reshape(values.shape))
        if worst < 0.35 and (best is None or worst < best[0]):
            best = worst, grids
    return best[1] if best else None


# Gradients --------------------------------------------------------------------------------------------------------


def _looked_at(trial, output, made, coordinates, cell) -> Found | None:
    """A network in one layer, with a feature map at its end: the centre of where outputs along each axis look."""
    if len(made) != 3 or len(_spread_axes(coordinates)) != 2:
        return None
    channels = 2 if made[2] >= made[0] or made[0] == made[1] else 0
    spatial = [a for a in range(3) if a != channels]
    if min(made[a] for a in spatial) < 2:
        return None
    result: list[np.ndarray] = []
    for axis in spatial:
        at = np.array(sorted({round(p * (made[axis] - 1)) for p in (0.25, 0.4, 0.6, 0.75)} | {0, made[axis] - 1}))
        spots = [[i if a == axis else n // 2 for a, n in enumerate(made)] for i in at]
        centres = _centres_of_gradients(trial, output, spots, channels, coordinates)
        if centres is None:
            return None
        moved = [abs(c[-1] - c[0]) for c in centres]
        if max(moved) < 5 * min(moved) or len(result) != int(np.argmax(moved)):
            return None
        inner = slice(1, -1) if len(at) > 4 else slice(None)
        slope, start = np.polyfit(at[inner], centres[int(np.argmax(moved))][inner], 1)
        line = start + slope * np.arange(made[axis])
        result.append(line.reshape([-1 if a == axis else 1 for a in range(3)]))
    cells = tuple(abs(float(np.diff(line.ravel())[0])) for line in result)
    stretched = _stretched(result, coordinates, made, spatial)
    return (*stretched, *result), cells


def _centres_of_gradients(
    trial: _Trial, output: int, spots: list[list[int]], channels: int, coordinates: Coordinates
) -> list[np.ndarray] | None:
    """The mean row and the mean column, ``(len(spots),)`` each, of where the output looks at each of some spots (all
    channels of it); None where it looks nowhere."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        copies = tf.repeat(tf.constant(trial.inputs[trial.number]), len(spots), axis=0)
        tape.watch(copies)
        y = trial.run(copies)[output]
    seeds = np.zeros(y.shape, np.float32)
    for seed, spot in zip(seeds, spots, strict=True):
        at = tuple(slice(None) if a == channels else i for a, i in enumerate(spot))
        seed[at] = np.random.default_rng(0).choice([-1, 1], y.shape[1 + channels])
    gradient = tape.gradient(y, copies, output_gradients=tf.cast(seeds, y.dtype))
    if gradient is None:
        return None
    energy = gradient.numpy().astype(np.float64) ** 2
    energy = np.where(energy > 0.02 * energy.max(axis=(1, 2, 3), keepdims=True), energy, 0)
    total = energy.sum(axis=(1, 2, 3))
    return [(energy * c).sum(axis=(1, 2, 3)) / total for c in coordinates[:2]] if (total > 0).all() else None


def _stretched(lines: list[np.ndarray], coordinates: Coordinates, made: tuple, spatial: list[int]) -> list[np.ndarray]:
    """Nominal places: the grid stretched over what came in, where the found centres go the same way."""
    result = []
    for line, before, axis in zip(lines, coordinates[:2], spatial, strict=True):
        values = before.ravel()
        step = (values[-1] - values[0]) / max(len(values) - 1, 1)
        n = made[axis]
        if len(values) < 2 or step * (line.ravel()[-1] - line.ravel()[0]) <= 0:
            result.append(line)
        else:
            result.append((values[0] + step * ((np.arange(n) + 0.5) * len(values) / n - 0.5)).reshape(line.shape))
    return result
