"""How a model wants its pixels, as layers: from images in [0, 255] to what the model was trained with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.models.scaling import centred_bgr, standardised, symmetric
from xaiutils.registry import suggest

layers, ops = keras.layers, keras.ops

Scaling = str | tuple[Any, Any] | Callable[[Any], Any]


def _as_it_is(images: keras.KerasTensor) -> keras.KerasTensor:
    return images


def _unit(images: keras.KerasTensor) -> keras.KerasTensor:
    """To [0, 1]: ``x / 255``."""
    return layers.Rescaling(1 / 255, name="divide_by_255")(images)


def _each_image(images: keras.KerasTensor) -> keras.KerasTensor:
    return StandardiseEach(name="standardise_each")(images)


SCALINGS: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    "model": _as_it_is,
    "0-1": _unit,
    "-1-1": symmetric,
    "imagenet": standardised,
    "caffe": centred_bgr,
    "standardise": _each_image,
}


@keras.saving.register_keras_serializable("xaiutils")
class StandardiseEach(keras.layers.Layer):
    """Each image to zero mean and unit deviation over all its pixels and channels, as
    ``tf.image.per_image_standardization``: the deviation is at least ``1 / sqrt(number of values)``."""

    def call(self, x: Any) -> Any:
        axes = tuple(range(1, len(x.shape)))
        count = ops.cast(ops.prod(ops.shape(x)[1:]), x.dtype)
        centred = x - ops.mean(x, axis=axes, keepdims=True)
        # sqrt has no derivative at 0: the maximum stands inside.
        variance = ops.maximum(ops.mean(ops.square(centred), axis=axes, keepdims=True), 1 / count)
        return centred / ops.sqrt(variance)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape


@keras.saving.register_keras_serializable("xaiutils")
class FunctionLayer(keras.layers.Layer):
    """A function of the caller's as a layer, for what does not take symbolic tensors."""

    def __init__(self, function: Callable[[Any], Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs: Any) -> Any:
        return self.function(inputs)

    def get_config(self) -> dict[str, Any]:
        raise ValueError(
            f"{self.name}: a function that is given is kept by no file, copy or clone unless it is written with "
            "keras.ops; save or copy the wrapped model's core, and wrap that again."
        )


def scale(images: keras.KerasTensor, scaling: Scaling) -> tuple[keras.KerasTensor, str]:
    """Scaled images, and the scaling's name or a description of it.

    Raises ValueError or TypeError where ``scaling`` is none, or does not fit the channels.
    """
    channels = images.shape[-1]
    if isinstance(scaling, str):
        if scaling not in SCALINGS:
            raise ValueError(
                f"scaling={scaling!r} is unknown; {suggest(scaling, list(SCALINGS))} "
                "Or give a pair (mean, std), or a function of a tensor."
            )
        if scaling in ("caffe", "imagenet") and channels != 3:
            raise ValueError(f"scaling={scaling!r} is for three channels (RGB), and the model takes {channels}.")
        return SCALINGS[scaling](images), scaling
    if callable(scaling):
        return _by_function(images, scaling), f"the function {getattr(scaling, '__name__', type(scaling).__name__)}"
    if not isinstance(scaling, Sequence | np.ndarray) or len(scaling) != 2:
        raise TypeError(
            f"scaling={scaling!r}; expected one of {', '.join(SCALINGS)}, a pair (mean, std), or a function of a "
            "tensor."
        )
    return _by_moments(images, *scaling)


def _by_moments(images: keras.KerasTensor, mean: Any, std: Any) -> tuple[keras.KerasTensor, str]:
    """``(x / 255 - mean) / std`` where mean and std are at most 1 (of images in [0, 1], as torchvision's Normalize
    takes them), else ``(x - mean) / std`` in pixels."""
    channels = images.shape[-1]
    values = []
    for name, given in (("mean", mean), ("std", std)):
        try:
            array = np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"scaling: {name}={given!r}; expected a number, or one for each channel.") from error
        if array.ndim > 1 or array.size not in (1, channels):
            raise ValueError(
                f"scaling: {name} has {array.size} values, and the model takes {channels} channels; give one value, "
                "or one for each channel."
            )
        if not np.isfinite(array).all() or (name == "std" and (array <= 0).any()):
            raise ValueError(f"scaling: {name}={given!r}; expected finite numbers, and a std above 0.")
        values.append(np.broadcast_to(array.ravel(), channels))
    mean, std = values
    in_pixels = bool((np.abs(mean) > 1).any() or (std > 1).any())
    if in_pixels and ((std < 1).any() or ((mean != 0) & (np.abs(mean) < 1)).any()):
        raise ValueError(
            f"scaling: mean={mean.tolist()} and std={std.tolist()} are in different units; give both for images in "
            "[0, 1] (as torchvision does), or both for images in [0, 255]."
        )
    unit = 1.0 if in_pixels else 255.0
    rescaled = layers.Rescaling((1 / (unit * std)).tolist(), (-mean / std).tolist(), name="normalise")(images)
    words = ["/".join(f"{v:g}" for v in dict.fromkeys(array.tolist())) for array in values]
    return rescaled, f"mean {words[0]}, std {words[1]} {'in pixels' if in_pixels else 'of [0, 1]'}"


def _by_function(images: keras.KerasTensor, function: Callable[[Any], Any]) -> keras.KerasTensor:
    try:
        scaled = function(images)
    except Exception:  # whatever it raises: many take real tensors alone
        scaled = None
    if not isinstance(scaled, keras.KerasTensor):
        try:
            scaled = FunctionLayer(function, name="scaling_function")(images)
        except Exception as error:  # whatever a caller's function raises
            raise ValueError(
                f"scaling= is a function that fails on a tensor of images; a function of NumPy cannot be one, since "
                f"gradients go through it: write it with keras.ops or TensorFlow ({' '.join(str(error).split())[:300]})"
            ) from error
    if not isinstance(scaled, keras.KerasTensor) or scaled.shape != images.shape:
        raise ValueError(
            f"scaling= is a function that makes {getattr(scaled, 'shape', type(scaled).__name__)} of images "
            f"{images.shape}; it must keep the shape."
        )
    _check_each_image(keras.Model(images, scaled), images.shape)
    return scaled


def _check_each_image(scaling: keras.Model, shape: tuple[int | None, ...]) -> None:
    """ValueError where a function scales an image by the others of its batch: maps would depend on these."""
    noise = np.random.default_rng(0).uniform(0, 255, (3, *(n or 32 for n in shape[1:]))).astype(np.float32)
    noise[2] /= 4
    together, alone = (np.asarray(ops.cast(scaling(x), "float32")) for x in (noise, noise[:1]))
    if not np.isfinite(together).all():
        raise ValueError("scaling= is a function that gives NaN or infinite values.")
    if not np.allclose(together[:1], alone, rtol=1e-4, atol=1e-4 * np.abs(alone).max()):
        raise ValueError(
            "scaling= is a function that scales an image otherwise in another batch; each image's must be its own: "
            "take means over the axes (1, 2, 3)."
        )
