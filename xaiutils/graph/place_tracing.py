"""Where in the image the elements of a graph's tensors lie.

Every tensor of the flat graph carries the image coordinates of its elements, followed from the image on: by formula
through convolutions and poolings, unchanged through functions of each element, and through anything else (a
permutation, a crop, a flip, a reshape to tokens, a function of the user's own) by trying it out on coordinates
(`xaiutils.graph.place_trials`). From a layer's coordinates follow its grid of rows and columns, whatever the order in
which it is stored, and the grid's place in the image.

Stacks of convolutions keep the published convention: the grid is stretched over what the stack reads. Beside these
nominal coordinates run the exact centres of the receptive fields; they count where both differ by a cell or more, as
after convolutions that lose a wide border.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.flat_graph import FlatGraph, ModelError, Step
from xaiutils.graph.layers.attention import is_attention
from xaiutils.graph.layers.table import CHANNELS, JOINED, MERGED, MIXED, PADDED, SAME, layer_type
from xaiutils.graph.layers.windows import Window, windows
from xaiutils.graph.place_trials import Cell, Coordinates, probe
from xaiutils.graph.places import Field, Place

_APART = 0.02  # pixels between coordinates that are not the same


@dataclass(frozen=True, eq=False)
class Layout:
    """Coordinates of a tensor's elements in pixels, NaN for none (padding, a class token).

    ``coordinates`` are the nominal rows and columns, then the exact ones; each broadcasts to the tensor's shape
    without the batch. ``cell`` is the height and width in pixels of what an element stands for.
    """

    coordinates: Coordinates
    cell: Cell

    @property
    def is_spread(self) -> bool:
        """Whether elements differ in their place at all: those of a pooled or flat mixture do not."""
        return any(np.nanmax(c) - np.nanmin(c) > _APART for c in self.coordinates[:2] if np.isfinite(c).any())


# What is asked ----------------------------------------------------------------------------------------------------


def field_of(graph: FlatGraph, step: Step) -> Field | None:
    """Where the output of a layer lies in the image and how it is stored; None where it is no map of the image."""
    found = _field_or_reason(graph, step)
    return found if isinstance(found, Field) else None


def field_at(graph: FlatGraph, path: str) -> Field:
    """The `field_of` of a layer by its path; ModelError where it has none."""
    found = field_of(graph, graph.step(path))
    if found is None:
        raise ModelError(f"the output of layer {path!r} is no map of the image.")
    return found


def why_no_field(graph: FlatGraph, step: Step) -> str:
    """What took the places of a layer's output away; "" where nothing did but a pooling, or where it has them."""
    found = _field_or_reason(graph, step)
    return found if isinstance(found, str) else ""


def spatial_layers(graph: FlatGraph) -> list[str]:
    """Paths of the layers whose output is a map of the image, channels at each place or tokens of patches, that the
    logits depend on, in order."""
    return [step.path for step in graph.steps_to_logits if field_of(graph, step) is not None]


def _field_or_reason(graph: FlatGraph, step: Step) -> Field | str:
    if None in graph.size_traced:
        return ""
    with tf.init_scope():  # now, though a function may be in the making
        layouts = graph.compiled(("layouts", graph.size_traced), lambda: follow(graph))
    layout, (shape,) = layouts.get(step.outputs[0], ""), graph.sizes(step.outputs[:1])
    if isinstance(layout, str):
        return layout
    fields = graph.compiled(("fields", graph.size_traced), dict)
    if (layout, shape) not in fields:  # many layers share a layout
        fields[layout, shape] = field(layout, shape)
    return fields[layout, shape]


# Following --------------------------------------------------------------------------------------------------------


def follow(graph: FlatGraph) -> dict[int, Layout | str]:
    """The layout of every tensor that the logits depend on, or why it has none ("" where nothing was lost, but places
    were mixed: after a pooling)."""
    ((height, width, _),) = graph.sizes([graph.input_key])
    places = np.arange(float(height))[:, None, None], np.arange(float(width))[None, :, None]
    found: dict[int, Layout | str] = {graph.input_key: Layout((*places, *places), (1.0, 1.0))}
    whole: dict[int, int] = {}  # of tensors whose rows are no images, the last tensor before whose rows are
    for step in graph.steps_to_logits:
        inputs = [found.get(key, "") for key in step.reads]
        outputs = _outputs(graph, step, inputs, found)
        if len(step.reads) == len(step.outputs) == 1 and isinstance(outputs[0], str):
            source = whole.get(step.reads[0], step.reads[0])
            layout, chain = found.get(source), _Chain(graph, source, step)
            if isinstance(layout, Layout) and chain.keeps_rows() is False:
                whole[step.outputs[0]] = source
            elif isinstance(layout, Layout) and source != step.reads[0]:
                outputs = _tried(graph, chain, [layout], outputs[0])
        found.update(zip(step.outputs, outputs, strict=True))
    return found


class _Chain:
    """Several steps as one, from a tensor with a row for each image to another: between them windows or places of all
    images were put one below the other, as windowed attention does."""

    def __init__(self, graph: FlatGraph, source: int, step: Step):
        self.path, self.operation, self.outputs, self.reads = step.path, step.operation, step.outputs, [source]
        self._graph = graph

    def call(self, operation: Any, values: dict[int, Any]) -> list[Any]:
        """As `Step.call`."""
        return self._graph.run(values, list(self.outputs))

    def keeps_rows(self) -> bool | None:
        """Whether there are as many rows as images; None where that cannot be tried."""
        ((*shape,),) = self._graph.sizes(self.reads)
        try:
            (y,) = self.call(self.operation, {self.reads[0]: tf.zeros((3, *shape))})
            return bool(y.shape[0] == 3)
        except (ValueError, TypeError, tf.errors.OpError):
            return None


def _outputs(
    graph: FlatGraph, step: Step, inputs: list[Layout | str], found: dict[int, Layout | str]
) -> list[Layout | str]:
    known = [x for x in inputs if isinstance(x, Layout) and x.is_spread]
    lost = next((x for x in inputs if isinstance(x, str) and x), "")
    operation, places = step.operation, layer_type(step.operation).places
    shapes, made = graph.sizes(step.reads), graph.sizes(step.outputs)
    if not known or places == MIXED:
        return [lost] * len(made)
    if is_attention(graph, step):
        return [known[0]] + [""] * (len(made) - 1)
    if len(inputs) == 1 and made == shapes and places == SAME:
        return [known[0]]
    if places == MERGED and len(made[0]) == max(len(s) for s in shapes):
        return [_merged(step, known)]
    if places == JOINED:
        axis = operation.axis % (len(made[0]) + 1) - 1
        return [_concatenated(inputs, shapes, axis, step) if axis >= 0 else lost]
    by_axis = windows(operation, shapes[0], made[0]) if len(inputs) == 1 else []
    if by_axis:
        return [_windowed(known[0], by_axis, _own_padding(graph, step, by_axis, found))]
    if len(inputs) == 1 and places == CHANNELS:
        return [_mixed(known[0], len(made[0]) - 1)]
    padded = _padded(operation, known[0]) if places == PADDED else None
    return _tried(graph, step, inputs, lost) if padded is None else [padded]


def _merged(step: Step, known: list[Layout]) -> Layout | str:
    """One layout of several tensors that are combined element by element, if they lie in the same place."""
    first = known[0]
    for other in known[1:]:
        for axis, pair in enumerate(zip(first.coordinates[:2], other.coordinates[:2], strict=True)):
            a, b = pair
            if a.ndim != b.ndim:
                return f"{step.path!r} combines tensors of different rank"
            apart = np.abs(a - b)
            if np.isfinite(apart).any() and np.nanmax(apart) > max(0.5 * first.cell[axis], 0.5):
                return f"{step.path!r} combines parts that come from different places of the image"
    return first


def _concatenated(inputs: list[Layout | str], shapes: list[tuple[int, ...]], axis: int, step: Step) -> Layout | str:
    known = [x for x in inputs if isinstance(x, Layout) and x.is_spread]
    if all(c.shape[axis] == 1 for x in known for c in x.coordinates):
        return _merged(step, known)  # channels of one field, maybe with others that have no place of their own
    parts = []
    for x, shape in zip(inputs, shapes, strict=True):
        rank = [n if a == axis else 1 for a, n in enumerate(shape)]
        if isinstance(x, Layout) and x.is_spread:
            parts.append([c + np.zeros(rank) for c in x.coordinates])
        else:
            parts.append([np.full(rank, np.nan)] * 4)
    whole = []
    for pieces in zip(*parts, strict=True):
        sizes = np.broadcast_shapes(*[[1 if a == axis else n for a, n in enumerate(p.shape)] for p in pieces])
        grown = [np.broadcast_to(p, [p.shape[a] if a == axis else n for a, n in enumerate(sizes)]) for p in pieces]
        whole.append(np.concatenate(grown, axis=axis))
    return Layout(tuple(whole), known[0].cell)


def _padded(operation: Any, layout: Layout) -> Layout | None:
    """Evenly spaced coordinates go on into a padding; None where they are not."""
    coordinates = layout.coordinates
    for axis, (before, after) in enumerate(operation.padding, 1 if operation.data_format == "channels_first" else 0):
        for c in coordinates:
            steps = np.diff(c, axis=axis)
            if c.shape[axis] == 2 or sum(n > 1 for n in c.shape) > 1 or (steps.size and not np.ptp(steps) < _APART):
                return None
        reach = [np.arange(-before, c.shape[axis] + after) for c in coordinates]
        coordinates = tuple(_at(c, axis, at) for c, at in zip(coordinates, reach, strict=True))
    return replace(layout, coordinates=coordinates) if all(c.size > 1 for c in coordinates) else None


def _mixed(layout: Layout, axis: int) -> Layout:
    """The layout after a layer that mixes all elements along an axis: the mean of their places."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of no place are no place
        return replace(layout, coordinates=tuple(np.nanmean(c, axis=axis, keepdims=True) for c in layout.coordinates))


# Convolutions and poolings ----------------------------------------------------------------------------------------


def _windowed(layout: Layout, by_axis: list[Window], padding: tuple[Layout, tuple[int, ...]] | None) -> Layout:
    """The layout after a window of each axis. ``padding``: the layout and shape before the layer's own padding."""
    channels = next(a for a in range(len(by_axis) + 1) if a not in [w.axis for w in by_axis])
    read = _mixed(layout, channels)
    frame = _mixed(padding[0], channels) if padding else read
    rough, exact, cell = frame.coordinates[:2], read.coordinates[2:], list(frame.cell)
    for window in by_axis:
        before = padding[1][window.axis] if padding else window.before
        stretched = (np.arange(window.after) + 0.5) * before / window.after - 0.5
        for i in (0, 1):
            if rough[i].shape[window.axis] > 1:
                cell[i] *= before / window.after
        rough = tuple(_at(c, window.axis, stretched) for c in rough)
        exact = tuple(_at(c, window.axis, window.centres()) for c in exact)
    return Layout((*rough, *exact), tuple(cell))


def _own_padding(
    graph: FlatGraph, step: Step, by_axis: list[Window], found: dict[int, Layout | str]
) -> tuple[Layout, tuple[int, ...]] | None:
    """The layout and shape before the ZeroPadding2D that stands for a valid convolution's own padding, as
    keras.applications write it."""
    (pad,) = graph.producers(step)
    if by_axis[0].padded or pad is None or layer_type(pad.operation).places != PADDED:
        return None
    amounts = zip(pad.operation.padding, by_axis, strict=True)
    if any(max(amount) >= max(window.extent, 2) for amount, window in amounts):
        return None
    layout = found.get(pad.reads[0])
    return (layout, graph.sizes(pad.reads)[0]) if isinstance(layout, Layout) else None


def _at(values: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """Values between the elements of an axis, and beyond its ends, on straight lines."""
    n = values.shape[axis]
    if n == 1:
        return values
    low = np.clip(np.floor(positions + 1e-9).astype(int), 0, n - 2)
    shape = [1] * values.ndim
    shape[axis] = -1
    share = (positions - low).reshape(shape)
    a, b = np.take(values, low, axis), np.take(values, low + 1, axis)
    return np.where(np.abs(share) < 1e-9, a, np.where(np.abs(share - 1) < 1e-9, b, a + share * (b - a)))


# Whatever else ----------------------------------------------------------------------------------------------------


def _tried(graph: FlatGraph, step: Any, inputs: list[Layout | str], lost: str) -> list[Layout | str]:
    """The layouts of an operation of which nothing is known but what it does."""
    results = []
    for number, layout in enumerate(inputs):
        if isinstance(layout, Layout) and layout.is_spread:
            results.append(probe(graph, step, number, layout.coordinates, layout.cell))
    outputs: list[Layout | str] = []
    for of_output in zip(*results, strict=True):
        known = [Layout(*pair) for pair in of_output if pair is not None]
        known = [layout for layout in known if layout.is_spread]
        if any(pair is None for pair in of_output) and not known:
            outputs.append(f"it is not known what {step.path!r} ({type(step.operation).__name__}) does to places")
        else:
            outputs.append(_merged(step, known) if known else lost)
    return outputs


# A layer's field --------------------------------------------------------------------------------------------------


def field(layout: Layout, shape: tuple[int, ...]) -> Field | str:
    """The grid of a tensor of a shape without the batch, or why it has none; "" where it is no map at all."""
    if len(shape) < 2 or not layout.is_spread:
        return ""
    alike = [a for a in reversed(range(len(shape))) if all(c.shape[a] == 1 for c in layout.coordinates[:2])]
    reason = ""
    for channels in alike or (len(shape) - 1, 0):
        found = _gridded(layout if alike else _mixed(layout, channels), shape, channels)
        if isinstance(found, Field):
            return found
        reason = reason or found
    return reason


def _gridded(layout: Layout, shape: tuple[int, ...], channels: int) -> Field | str:
    spatial = [1 if a == channels else n for a, n in enumerate(shape)]
    flat = [np.broadcast_to(c, spatial).ravel() for c in layout.coordinates]
    elements = np.flatnonzero(np.isfinite(flat[0]) & np.isfinite(flat[1]))
    if len(elements) < 2 or (len(shape) == 2 and len(elements) < 4):
        return ""
    numbers, lines, stretched = [], [], []
    for axis in (0, 1):
        number, nominal, exact = _lines(flat[axis][elements], flat[axis + 2][elements])
        numbers.append(number)
        line = _line(nominal, layout.cell[axis])
        if line is None:
            return "its rows or columns are not evenly spaced in the image"
        stretched.append(line)
        step = line[1]
        if np.isfinite(exact[[0, -1]]).all() and np.abs(exact - nominal)[[0, -1]].max() >= step:
            line = _line(exact, layout.cell[axis]) or line
        lines.append((line, len(nominal)))
    (rows, n_rows), (columns, n_columns) = lines
    place = numbers[0] * n_columns + numbers[1]
    if len(elements) != n_rows * n_columns or np.bincount(place).max() > 1:
        return "its elements do not fill a grid of rows and columns of the image"
    order = np.empty(len(place), int)
    order[place] = elements
    return Field((n_rows, n_columns), Place(rows, columns), Place(*stretched), shape, channels, order)


def _lines(nominal: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each element the number of its row (or column), and each row's nominal and exact coordinate."""
    by_value = np.argsort(nominal, kind="stable")
    number = np.empty(len(nominal), int)
    number[by_value] = np.concatenate([[0], np.cumsum(np.diff(nominal[by_value]) > _APART)])
    counts = np.bincount(number)
    return number, np.bincount(number, nominal) / counts, np.bincount(number, exact) / counts


def _line(values: np.ndarray, cell: float) -> tuple[float, float] | None:
    """First value and step of evenly spaced values; None of others."""
    if len(values) == 1:
        return float(values[0]), float(cell)
    step = (values[-1] - values[0]) / (len(values) - 1)
    even = np.abs(values - (values[0] + step * np.arange(len(values)))).max() < 0.25 * abs(step)
    return (float(values[0]), float(step)) if even and step > 0 else None
