"""Where a model trains, and in which precision."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

from xaiutils.backend import keras, tf
from xaiutils.registry import suggest
from xaiutils.training.features import leaves

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def make_strategy(devices: str | Sequence[str]) -> tf.distribute.Strategy | None:
    """The strategy for ``devices`` as `train` takes them; None where TensorFlow's own choice of a device is wanted.

    Raises ValueError for devices that this machine does not have.
    """
    have = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    if devices == "auto":
        return None
    if devices == "all":
        gpus = [name for name in have if name.startswith("GPU")]
        chosen = gpus or [name for name in have if name.startswith("CPU")]
        return _strategy(tuple(chosen)) if len(chosen) > 1 else None
    chosen = [devices] if isinstance(devices, str) else list(devices)
    if not chosen:
        raise ValueError("devices is empty; give 'auto', 'all' or names such as ['GPU:0', 'GPU:1'].")
    chosen = [name if not isinstance(name, str) or ":" in name else f"{name}:0" for name in chosen]
    chosen = [name.upper() if isinstance(name, str) else name for name in chosen]
    for name in chosen:
        if name not in have:
            raise ValueError(f"devices: this machine has no {name!r}; {suggest(str(name), ['auto', 'all', *have])}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"devices={devices!r} names a device twice.")
    return _strategy(tuple(chosen))


def first_device(strategy: tf.distribute.Strategy) -> str:
    """The name of the first of its devices, as `tf.device` takes it."""
    return strategy.extended.worker_devices[0]


@lru_cache
def _strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One for all runs on the same devices: sums of two strategies in one process are taken for each other."""
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.OneDeviceStrategy(devices[0])


def twin(model: keras.Model, strategy: tf.distribute.Strategy) -> keras.Model:
    """The same network with weights of the same values on the strategy's devices: a model's variables stay where they
    were made."""
    with strategy.scope():
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    return copy


@contextmanager
def computing_in(model: keras.Model, precision: str) -> Iterator[Callable[[], AbstractContextManager]]:
    """Within the block the model's layers compute in ``precision`` (Micikevicius et al. 2018, Mixed precision training,
    arXiv:1710.03740), where they are compiled there; "float32" leaves them as they are.

    All variables stay float32. So do the computations of the layers before the first one with weights, which scale the
    pixels (bfloat16 has 8 binary digits), of ``logits`` and what follows, and of the head "mldam", whose channel
    attention is of the third power of the features. Yields a context in which the layers are as before once more.
    """
    inner = model.layers[: [layer.name for layer in model.layers].index("logits")]
    halved = [] if precision == "float32" else _after_scaling(inner)
    parts = [part for leaf in halved if not leaf.name.startswith("mldam_") for part in _parts(leaf)]
    before = [part.dtype_policy for part in parts]

    def set_all(policies: Sequence[Any]) -> None:
        for part, policy in zip(parts, policies, strict=True):
            part.dtype_policy = policy

    @contextmanager
    def as_before() -> Iterator[None]:
        set_all(before)
        try:
            yield
        finally:
            set_all([precision] * len(parts))

    try:
        set_all([precision] * len(parts))
        yield as_before
    finally:
        set_all(before)


def _after_scaling(layers: Sequence[keras.layers.Layer]) -> list[keras.layers.Layer]:
    flat = [leaf for x in layers for leaf in (leaves(x) if isinstance(x, keras.Model) else [x])]
    weighted = (i for i, leaf in enumerate(flat) if leaf.weights and not isinstance(leaf, keras.layers.Normalization))
    return flat[next(weighted, len(flat)) :]


def _parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer and those that it is made of, as attention is of its projections."""
    return list(layer._flatten_layers())
