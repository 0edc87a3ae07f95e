"""Training by places: what masks or boxes ask of each place of the head "where_and_what", its losses, and crops.

A grid has a value for each place of the head's maps: `LESION` in the ellipse of a piece of evidence, `IGNORED` in a
ring about it, where nobody can say, `DARK` where the image is all black, else `OTHER`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from xaiutils.backend import keras, tf
from xaiutils.models.where_and_what import STRIDE
from xaiutils.training.augmentation import augment
from xaiutils.training.loop import Split
from xaiutils.training.objectives import Classes, Loss
from xaiutils.training.recipe import Recipe

ops = keras.ops

IGNORED, OTHER, LESION, DARK = -1, 0, 1, 2
_INSIDE = 3.0  # squared Mahalanobis distance: of a box's pixels this is the ellipse that touches its sides
_RING = 1.8  # times as far out nothing is asked
_LEAST = 4.0  # pixels^2 added to the variances: a lesion of a few pixels has an extent too
BACKGROUND = 0.6  # crops elsewhere, for each image
_FLOOR = 0.01  # of the attention on the evidence: where there is none at all, its logarithm has a slope


def evidence_grid(mask: np.ndarray, grey: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """int8 ``(rows, columns)`` of `LESION`, `IGNORED`, `OTHER` and `DARK`.

    ``mask`` bool and ``grey`` (any number, 0 is black) are ``(height, width)``. Each connected piece of the mask is
    taken as the ellipse of its mean and covariance; the place in its middle is always `LESION`.
    """
    steps = np.divide(mask.shape, shape)
    edges = [(np.arange(n) * step).astype(int) for n, step in zip(shape, steps, strict=True)]
    brightest = np.maximum.reduceat(np.maximum.reduceat(grey, edges[0], axis=0), edges[1], axis=1)
    grid = np.where(brightest > 0, OTHER, DARK).astype(np.int8)
    middles = np.moveaxis(np.indices(shape), 0, -1) * steps + (steps - 1) / 2
    parts, _ = ndimage.label(mask)
    ellipses = []
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        pixels = np.argwhere(parts[box] == number) + [side.start for side in box]
        spread = np.cov(pixels.T, bias=True) + _LEAST * np.eye(2)
        away = middles - pixels.mean(axis=0)
        inside = np.einsum("rci,ij,rcj->rc", away, np.linalg.inv(spread), away)
        row, column = (pixels.mean(axis=0) / steps).astype(int)
        inside[row, column] = 0
        ellipses.append(inside)
    for inside in ellipses:
        grid[inside <= _INSIDE * _RING**2] = IGNORED
    for inside in ellipses:
        grid[inside <= _INSIDE] = LESION
    return grid


def grids_of(pixels: np.ndarray, masks: np.ndarray, states: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`evidence_grid` of images ``(n, height, width, channels)``: int8 ``(n, *shape)``; where the state of the evidence
    is "unknown", all is `IGNORED`."""
    found = np.full((len(pixels), *shape), IGNORED, np.int8)
    for i in np.flatnonzero(states != "unknown"):
        found[i] = evidence_grid(masks[i], pixels[i].max(axis=-1), shape)
    return found


def changed_together(
    pixels: np.ndarray, masks: np.ndarray, recipe: Recipe, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 ``(n, height, width, channels)`` and their masks, changed alike by `augment`."""
    x = np.concatenate([pixels, 255 * masks[..., None]], axis=-1, dtype=np.float32, casting="unsafe")
    x = augment(x, recipe, rng)
    return np.ascontiguousarray(x[..., :-1]), x[..., -1] > 127.5


@dataclass(frozen=True)
class PlaceSplit(Split):
    """Training data with their evidence on grids of ``shape``: ``x`` is a list of features ``(copies, rows, columns,
    channels)`` of each image, with their ``grids`` ``(n, copies, *shape)``, or images ``(n, height, width, channels)``
    with ``masks`` and ``states``, whose grids are made after each change.

    ``y`` has the labels; with a recipe's ``crop`` those of the crops elsewhere follow (`with_background`).
    """

    shape: tuple[int, int]
    grids: np.ndarray | None = None
    masks: np.ndarray | None = None
    states: np.ndarray | None = None

    def batch(self, chosen: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
        n = len(self.x)
        elsewhere, images = chosen >= n, np.where(chosen < n, chosen, rng.integers(n, size=len(chosen)))
        x, grids = self._of_images(images, recipe, rng)
        if recipe.crop:
            side, wanted = recipe.crop // STRIDE, np.where(elsewhere, OTHER, LESION)
            starts = [crop_start(grid, side, code, rng) for grid, code in zip(grids, wanted, strict=True)]
            x = [_cut(image, start, side, len(image) // self.shape[0]) for image, start in zip(x, starts, strict=True)]
            grids = np.stack([_cut(grid, start, side, 1) for grid, start in zip(grids, starts, strict=True)])
        targets = {"labels": self.y[images], "grids": grids} if all(self.shape) else self.y[images]
        return np.stack(x).astype(np.float32, copy=False), targets

    def _of_images(self, images: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
        """Inputs and grids of images, by number."""
        if self.grids is not None:
            copies = rng.integers(self.grids.shape[1], size=len(images))
            return [self.x[i][copy] for i, copy in zip(images, copies, strict=True)], self.grids[images, copies]
        assert self.masks is not None
        assert self.states is not None
        x, masks = changed_together(self.x[images], self.masks[images], recipe, rng)
        return x, grids_of(x, masks, self.states[images], self.shape)


def with_background(labels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """One label for each crop of an epoch, or for each image where a recipe does not crop."""
    return np.concatenate([labels, labels[: int(BACKGROUND * len(labels))]]) if recipe.crop else labels


def crop_start(grid: np.ndarray, side: int, code: int, rng: np.random.Generator) -> np.ndarray:
    """First row and column, even as the places of stride 32 begin there, of a crop of ``side`` places: about a random
    place that has the ``code``, off its middle by up to a quarter of the side; where none has it, about any `OTHER`."""
    places = np.argwhere(grid == code)
    places = places if len(places) else np.argwhere(grid == OTHER)
    middle = places[rng.integers(len(places))] if len(places) else np.array(grid.shape) // 2
    start = middle - side // 2 + rng.integers(-(side // 4), side // 4 + 1, size=2)
    start = np.clip(start // 2 * 2, (middle - side + 2) // 2 * 2, middle // 2 * 2)  # the place stays in it
    return np.clip(start, 0, np.subtract(grid.shape, side))


def _cut(x: np.ndarray, start: np.ndarray, side: int, step: int) -> np.ndarray:
    (row, column), length = start * step, side * step
    return x[row : row + length, column : column + length]


class WhereAndWhat(Classes):
    """One class for each image, and what its evidence says of the two kinds of maps.

    With the grid of an image, l its map of where, m_c its maps of what and a the attention, the loss is

        image + ``where`` (found - log of the attention on `LESION` and `IGNORED`) + ``what`` (kind),

    - image: the recipe's loss of the logits; none of crops;
    - found: binary cross-entropy of l, half its mean over `LESION` and its mean over `OTHER` and `DARK`;
    - attention: of images with evidence; not of crops;
    - kind: cross-entropy of m at the places of `LESION` with the class of the image, each image weighing the same.
    """

    def spec(self, outputs: int) -> Any:
        return {"labels": super().spec(outputs), "grids": tf.TensorSpec([None, None, None], tf.int8)}

    def loss(self, recipe: Recipe, y: np.ndarray, outputs: int) -> Loss:
        of_image = super().loss(recipe, y, outputs)

        def loss(y: Any, found: Any) -> tf.Tensor:
            logits, where, what, attention = (tf.cast(x, tf.float32) for x in found)
            value = recipe.where * where_loss(where[..., 0], y["grids"])
            value += recipe.what * what_loss(what, y["grids"], y["labels"], recipe.label_smoothing)
            if recipe.crop:
                return value
            return value + of_image(y["labels"], logits) + recipe.where * attention_loss(attention[..., 0], y["grids"])

        return loss

    def score(self, y: Any, logits: Any) -> tf.Tensor:
        return super().score(y["labels"], logits[0])


def where_loss(where: Any, grids: Any) -> Any:
    """What `WhereAndWhat` calls found, for l and grids ``(n, rows, columns)``. Each mean has one place of loss 0 more,
    so that a batch without evidence has a loss. This and the next two are written for any backend of Keras."""
    lesion, other = ops.cast(grids == LESION, "float32"), ops.cast((grids == OTHER) | (grids == DARK), "float32")
    each = ops.softplus(where) - lesion * where  # cross-entropy of sigmoid(l)
    halves = 0.5 * ops.sum(each * lesion) / (ops.sum(lesion) + 1)
    return halves + ops.sum(each * other) / (ops.sum(other) + 1)


def what_loss(what: Any, grids: Any, labels: Any, smoothing: float) -> Any:
    """What `WhereAndWhat` calls kind, for m ``(n, rows, columns, classes)``; 0 for a batch without evidence."""
    lesion, n_classes = ops.cast(grids == LESION, "float32"), what.shape[-1]
    wanted = ops.one_hot(labels, n_classes)[:, None, None] * (1 - smoothing) + smoothing / n_classes
    each = ops.sum(-wanted * ops.log_softmax(what), axis=-1)
    of_images = ops.divide_no_nan(ops.sum(each * lesion, (1, 2)), ops.sum(lesion, (1, 2)))
    return _mean_of_those(of_images, lesion)


def attention_loss(attention: Any, grids: Any) -> Any:
    """Mean of -log(attention on `LESION` and `IGNORED`) over images with evidence; ``(n, rows, columns)`` both. The
    attention is kept `_FLOOR` from 0 and 1."""
    lesion, near = ops.cast(grids == LESION, "float32"), ops.cast((grids == LESION) | (grids == IGNORED), "float32")
    mass = ops.sum(attention * near, (1, 2))
    return _mean_of_those(-ops.log(mass * (1 - 2 * _FLOOR) + _FLOOR), lesion)


def _mean_of_those(values: Any, lesion: Any) -> Any:
    has = ops.cast(ops.sum(lesion, (1, 2)) > 0, "float32")
    return ops.divide_no_nan(ops.sum(values * has), ops.sum(has))
