"""The passes that all methods are made of: compiled once for each model (`tiers`), batched, bounded in memory.

Without autograph, which would double the seconds that tracing takes: Keras builds its graphs without it too.

Images are float32 ``(n, height, width, C)`` in [0, 255] and targets int32 ``(n,)`` throughout. All run `forward`.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.layers.batch_norm import folding
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.places import Place, enlarged, extended
from xaiutils.graph.tiers import coming, tiered
from xaiutils.progress import progress

NO_GRADIENT = "the model cuts the gradient to its input (does it cast to integers?); use occlusion, rise or lime."
TARGETS = tf.TensorSpec([None], tf.int32)


def batches(n: int, batch_size: int, title: str) -> Iterator[slice]:
    """Consecutive slices of ``range(n)``, with progress; compiled passes hear how many images are `coming`."""
    for start in progress(range(0, n, batch_size), title=title):
        with coming(n - start):
            yield slice(start, min(start + batch_size, n))


def fetched(results: Iterable[tf.Tensor]) -> Iterator[np.ndarray]:
    """Each result as an array, waited for when the next one has been asked of the device."""
    running = None
    for result in results:
        if running is not None:
            yield running.numpy()
        running = result
    if running is not None:
        yield running.numpy()


def logits(network: Network, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Logits ``(n, classes)`` float32."""

    def build():
        return tiered(network, lambda x: folded_logits(network, x), [network.image_spec])

    run = network.compiled("logits", build)
    return np.concatenate(list(fetched(run(images[b]) for b in batches(len(images), batch_size, "predicting"))))


def forward(
    network: Network, images: tf.Tensor, layers: Sequence[str] = (), watch: Callable[[tf.Tensor], None] | None = None
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """`Network.forward`, with every batch norm that follows a convolution folded into it.

    TensorFlow fuses the result with the activation after it. Results differ from the plain graph's by rounding. A
    convolution whose own output is wanted stays as it is.
    """
    return network.forward(images, layers, watch, folding(network, wanted={network.step(path) for path in layers}))


def folded_logits(network: Network, images: tf.Tensor) -> tf.Tensor:
    """Logits ``(n, classes)`` of `forward`."""
    return forward(network, images)[0]


def class_scores(network: Network, scores: tf.Tensor, targets: tf.Tensor, score: str) -> tf.Tensor:
    """The target's entry of each row of logits, as "logit", as "probability", or as "margin" over the largest other
    logit: above 0 where the target is the answer."""
    if score == "margin":
        others = tf.where(tf.one_hot(targets, tf.shape(scores)[1], True, False, dtype=tf.bool), -np.inf, scores)
        return tf.gather(scores, targets, axis=1, batch_dims=1) - tf.reduce_max(others, axis=1)
    if score == "probability":
        scores = network.probabilities(scores)
    return tf.gather(scores, targets, axis=1, batch_dims=1)


def logit_of_target(network: Network, scores: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The target's logit S ``(n,)``, which methods differentiate unless they say otherwise."""
    return class_scores(network, scores, targets, "logit")


def target_scores(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, score: str = "logit"
) -> np.ndarray:
    """The score of each image's target, float32 ``(n,)``."""
    return class_scores(network, logits(network, images, batch_size), targets, score).numpy()


def batched_input_gradients(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int) -> np.ndarray:
    """Gradient of each target logit by its image, ``(n, height, width, C)``."""
    run = input_gradients(network)
    return np.concatenate([run(images[b], targets[b]) for b in batches(len(images), batch_size, "gradients")])


def input_gradients(network: Network) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Function (images, targets) -> gradient of each target logit by its image, ``(n, height, width, C)``."""

    def build():
        def gradients(images, targets):
            return input_gradient(network, images, targets)

        compiled = tiered(network, gradients, [network.image_spec, TARGETS])
        return lambda images, targets: compiled(tf.constant(images, network.image_spec.dtype), targets).numpy()

    return network.compiled("input gradients", build)


def input_gradient(network: Network, images: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Gradient of each target logit by its image, a tensor of the images' shape; ModelError where there is none."""
    return logit_and_gradient(network, images, targets)[1]


def logit_and_gradient(network: Network, images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each target logit ``(n,)`` and `input_gradient` of it, of one pass."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        found = class_scores(network, folded_logits(network, images), targets, "logit")
        total = tf.reduce_sum(found)  # images do not mix, so the gradient of the sum holds each image's own gradient
    try:
        gradient = tape.gradient(total, images)
    except LookupError as error:
        raise ModelError(
            f"TensorFlow has no gradient of an operation in the model ({error}); use occlusion, rise or lime."
        ) from error
    if gradient is None:
        raise ModelError(NO_GRADIENT)
    return found, gradient


def check_gradient(network: Network) -> None:
    """ModelError where the image has no gradient of the logits; one black image is differentiated, once."""

    def look() -> str:
        height, width = (n or 1 for n in network.size_traced)
        black = np.zeros((1, height, width, network.channels), np.float32)
        try:
            input_gradients(network)(black, np.zeros(1, np.int32))
        except ModelError as error:
            return str(error)
        return ""

    reason = network.compiled("no gradient", lambda: {"why": look()})["why"]
    if reason:
        raise ModelError(reason)


def activations_and_gradients(
    network: Network,
    layers: Sequence[str],
    score: Callable[[Network, tf.Tensor, tf.Tensor], tf.Tensor] = logit_of_target,
) -> Callable[[np.ndarray, np.ndarray], list[tuple[tf.Tensor, tf.Tensor]]]:
    """Function (images, targets) -> the activation of each of ``layers`` (paths) and the gradient by it of ``score``
    ``(n,)``, made of the logits and targets and hashable; by default the target's logit.

    Both ``(n, rows, columns, channels)`` float32; of a transformer's tokens, only the patch tokens.
    """

    def build():
        def run(images, targets):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                scores, activations = forward(network, images, layers, tape.watch)
                total = tf.reduce_sum(score(network, scores, targets))
            pairs = zip(layers, activations, tape.gradient(total, activations), strict=True)
            return [tuple(tf.cast(network.to_grid(layer, x), tf.float32) for x in pair) for layer, *pair in pairs]

        return tiered(network, run, [network.image_spec, TARGETS])

    stored = tuple(network.field(layer).stored for layer in layers)
    return network.compiled(("activations and gradients", tuple(layers), stored, score), build)


def activation(network: Network, layer: str, images: np.ndarray, batch_size: int) -> np.ndarray:
    """A layer's activation ``(n, rows, columns, channels)`` float32."""

    def build():
        def run(batch):
            return tf.cast(network.to_grid(layer, forward(network, batch, [layer])[1][0]), tf.float32)

        return tiered(network, run, [network.image_spec])

    run = network.compiled(("activation", layer, network.field(layer).stored), build)
    return np.concatenate(list(fetched(run(images[b]) for b in batches(len(images), batch_size, "activations"))))


def masked_scores(
    network: Network,
    images: np.ndarray,
    fills: np.ndarray,
    targets: np.ndarray,
    members: np.ndarray,
    masks: Callable[[slice], np.ndarray],
    batch_size: int,
    score: str = "logit",
    title: str = "masking",
    scale: bool = False,
    place: Place | None = None,
) -> np.ndarray:
    """Score of image ``members[k]`` mixed with its fill by mask k: ``mask * image + (1 - mask) * fill``.

    ``masks(batch)`` makes the masks ``(batch, rows, columns)`` of a slice of k, of any resolution; smaller ones are
    enlarged bilinearly, to their ``place`` or else to the whole image. ``scale``: each is then scaled to [0, 1], a
    constant one to 0. Outside of its place a mask is 0. ``fills`` is ``(n, height, width, C)`` or broadcastable to it.
    ``score`` is that of `class_scores`, ``title`` of the progress bar.

    Returns float32 ``(len(members),)``.
    """
    height, width = images.shape[1:3]
    grid = (0, 0) if place is None else masks(slice(0, 1)).shape[1:]
    run = _mixing(network, score, scale, (height, width), grid, place)
    fills = np.broadcast_to(fills, images.shape)

    def scores(batch: slice) -> tf.Tensor:
        # A batch holds many copies of few images; only these few are handed over.
        few, member = np.unique(members[batch], return_inverse=True)
        given = images[few], fills[few].astype(np.float32), targets[few], member.astype(np.int32)
        return run(*given, masks(batch).astype(np.float32, copy=False))

    found = fetched(scores(batch) for batch in batches(len(members), batch_size, title))
    return np.concatenate([np.empty(0, np.float32), *found])


def _mixing(
    network: Network, score: str, scale: bool, size: tuple[int, int], grid: tuple[int, int], place: Place | None
) -> Callable[..., tf.Tensor]:
    """The compiled function of `masked_scores` for masks of ``grid`` cells, from one batch of few images."""
    at = None if place is None or place.covers(grid, size) else place

    def build():
        image = network.image_spec
        mask_spec = tf.TensorSpec([None, *((None, None) if at is None else grid)], tf.float32)

        def run(image, fill, target, member, mask):
            if at is None:
                mask, inside = tf.image.resize(mask[..., None], tf.shape(image)[1:3])[..., 0], np.ones((), np.float32)
            else:
                mask, inside = extended(mask, size, at)
            if scale:
                low = tf.reduce_min(mask, axis=(1, 2), keepdims=True)
                mask = tf.math.divide_no_nan(mask - low, tf.reduce_max(mask, axis=(1, 2), keepdims=True) - low)
            mask = (mask * inside)[..., None]
            mixed = tf.gather(fill, member) + mask * tf.gather(image - fill, member)
            return class_scores(network, folded_logits(network, mixed), tf.gather(target, member), score)

        return tiered(network, run, [image, image, TARGETS, TARGETS, mask_spec])

    key = ("masked scores", score, scale) if at is None else ("masked scores", score, scale, at, *grid, *size)
    return network.compiled(key, build)


def scores_of(
    network: Network,
    make: Callable[[slice], np.ndarray],
    targets: np.ndarray,
    batch_size: int,
    score: str = "logit",
    title: str = "scoring",
) -> np.ndarray:
    """Score ``(len(targets),)`` float32 of a stream of images, of which ``make(batch)`` makes a slice at a time."""

    def build():
        def run(batch, target):
            return class_scores(network, folded_logits(network, batch), target, score)

        return tiered(network, run, [network.image_spec, TARGETS])

    run = network.compiled(("scores", score), build)
    found = fetched(
        run(make(batch).astype(np.float32, copy=False), targets[batch])
        for batch in batches(len(targets), batch_size, title)
    )
    return np.concatenate(list(found))


def enlarge(maps: np.ndarray | tf.Tensor, height: int, width: int, place: Place | None = None) -> np.ndarray:
    """Bilinear resize of ``(n, rows, columns)`` to ``(n, height, width)`` float32, half-pixel centres; with ``place``,
    `Network.place` of the layer, laid where the layer's grid lies in the image, and 0 outside of it."""
    return enlarged(tf.convert_to_tensor(maps, tf.float32), (height, width), place).numpy()


def reduce_channels(gradients: np.ndarray, reduction: str) -> np.ndarray:
    """``(n, height, width, C)`` to ``(n, height, width)``."""
    # Channel by channel: along so short an axis NumPy takes ten times as long, a tenth of what the gradient takes.
    channels = np.moveaxis(gradients, -1, 0)
    if reduction == "sum":
        return functools.reduce(np.add, channels)
    return functools.reduce(np.maximum if reduction == "max_abs" else np.add, map(np.abs, channels))
