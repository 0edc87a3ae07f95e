"""Small networks of every shape that users bring, built by hand for images of 32 x 32 pixels.

Each has two sets of weights: random ones, and those of a blob classifier, whose score is what is bright in the image,
so that it is known where a map must peak. Its first convolution sees nothing but what is brighter than the ground.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

import xaiutils as xai
from xaiutils.backend import keras, tf
from zoo.checks import Blob, Subject
from zoo.foreign import draw_weights, images

L, ops = keras.layers, keras.ops
SIZE, FEATURES = 32, 4
Trunk = Callable[[Any], Any]


def see(x: Any, **options: Any) -> Any:
    """The first convolution."""
    return L.Conv2D(FEATURES, 3, padding="same", activation="relu", name="see", **options)(x)


def conv(x: Any, features: int = FEATURES, **options: Any) -> Any:
    return L.Conv2D(features, 3, **{"padding": "same", "activation": "relu", **options})(x)


# Trunks: from the scaled image to features (n, k) ---------------------------------------------------------------------


def plain(x: Any) -> Any:
    return L.GlobalAveragePooling2D()(conv(conv(see(x), strides=2), strides=2))


def nested_twice(x: Any) -> Any:
    inmost = keras.Input((SIZE, SIZE, FEATURES))
    inner = keras.Model(inmost, conv(inmost, strides=2), name="inmost")
    outer_input = keras.Input((SIZE, SIZE, FEATURES))
    outer = keras.Model(outer_input, conv(inner(outer_input), strides=2), name="inner")
    return L.GlobalAveragePooling2D()(outer(see(x)))


def channels_first(x: Any) -> Any:
    x = conv(L.Permute((3, 1, 2))(see(x)), strides=2, data_format="channels_first")
    return L.GlobalAveragePooling2D(data_format="channels_first")(x)


def permute_before_flatten(x: Any) -> Any:
    return L.Flatten()(L.Permute((3, 1, 2))(conv(see(x), strides=4)))


def two_branches(x: Any) -> Any:
    x = see(x)
    branches = [conv(x, strides=2), L.Conv2D(FEATURES, 5, strides=4, padding="same", activation="relu")(x)]
    return L.Concatenate()([L.GlobalAveragePooling2D()(branch) for branch in branches])


def squeeze_excitation(x: Any) -> Any:
    x = conv(see(x), 8, strides=2)
    gate = L.Dense(4, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x))
    return L.GlobalAveragePooling2D()(conv(L.Multiply()([x, L.Dense(8, activation="sigmoid")(gate)])))


def selective_kernel(x: Any) -> Any:
    x = see(x)
    small, large = conv(x, strides=2), L.Conv2D(FEATURES, 5, strides=2, padding="same", activation="relu")(x)
    pooled = L.Dense(4, activation="relu")(L.GlobalAveragePooling2D()(L.Add()([small, large])))
    weights = L.Softmax(axis=1)(L.Reshape((2, FEATURES))(L.Dense(2 * FEATURES)(pooled)))
    mixed = [
        L.Multiply()([part, L.Reshape((1, 1, FEATURES))(weights[:, number])])
        for number, part in enumerate((small, large))
    ]
    return L.GlobalAveragePooling2D()(L.Add()(mixed))


def cbam(x: Any) -> Any:
    x = conv(see(x), 8, strides=2)
    first, second = L.Dense(4, activation="relu"), L.Dense(8)
    pooled = [L.GlobalAveragePooling2D(keepdims=True)(x), L.GlobalMaxPooling2D(keepdims=True)(x)]
    x = L.Multiply()([x, L.Activation("sigmoid")(L.Add()([second(first(p)) for p in pooled]))])
    flat = L.Concatenate()([ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)])
    gate = L.Conv2D(1, 7, padding="same", activation="sigmoid")(flat)
    return L.GlobalAveragePooling2D()(L.Multiply()([x, gate]))


def group_normalization(x: Any) -> Any:
    x = L.GroupNormalization(2)(conv(see(x), activation=None, strides=2))
    return L.GlobalAveragePooling2D()(L.ReLU()(x))


def u_net(x: Any) -> Any:
    first = see(x)
    low = conv(L.MaxPooling2D(2)(first))
    up = L.UpSampling2D(2, interpolation="bilinear")(low)
    up = L.Concatenate()([up, first])
    up = L.Conv2DTranspose(FEATURES, 3, padding="same", activation="relu")(up)
    return L.GlobalAveragePooling2D()(up)


def lstm_tail(x: Any) -> Any:
    x = conv(see(x), 2, strides=4)
    return L.LSTM(6)(L.Reshape((8, 16))(x))


def attention(x: Any) -> Any:
    tokens = L.Reshape((64, 8))(L.Conv2D(8, 4, strides=4)(see(x)))
    tokens = L.Add()([tokens, L.MultiHeadAttention(2, 4)(tokens, tokens)])
    x = L.LayerNormalization()(tokens)
    x = L.Add()([tokens, L.Dense(8)(L.Dense(12, activation="relu")(x))])
    return L.GlobalAveragePooling1D()(x)


def aspp(x: Any) -> Any:
    x = conv(see(x), strides=2)
    rates = [conv(x, dilation_rate=rate) for rate in (1, 2, 3)]
    return L.GlobalAveragePooling2D()(L.Concatenate()(rates))


# Networks -------------------------------------------------------------------------------------------------------------


def _parts(trunk: Trunk, units: int, channels: int) -> tuple[Any, Any]:
    inputs = keras.Input((SIZE, SIZE, channels))
    return inputs, L.Dense(units, name="scores")(trunk(L.Rescaling(1 / 255)(inputs)))


def _built(trunk: Trunk, last: str = "softmax", units: int = 3, channels: int = 3) -> tuple[keras.Model, keras.Model]:
    """A network with its last activation, and the same without it."""
    inputs, z = _parts(trunk, units, channels)
    y = z if last == "linear" else L.Activation(last, dtype="float32")(z)
    return keras.Model(inputs, y), keras.Model(inputs, z)


def _subject(precision: str, trunk: Trunk = plain, last: str = "softmax", units: int = 3, channels: int = 3) -> Subject:
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    try:
        model, scores = _built(trunk, last, units, channels)
    finally:
        keras.config.set_dtype_policy("float32")
    draw_weights(scores)
    found = Subject(model, _two_sided(scores, units), images(2, SIZE, channels), _targets(units), precision, scores)
    found.blob = _blob(model, channels)
    return found


def _two_sided(scores: keras.Model, units: int) -> Callable[[tf.Tensor], tf.Tensor]:
    def run(x: tf.Tensor) -> tf.Tensor:
        z = scores(x, training=False)
        return tf.concat([-z, z], axis=1) if units == 1 else z

    return run


def _targets(units: int) -> np.ndarray:
    return np.array([0, 1]) if units == 1 else np.array([1, 2])


def _blob(model: keras.Model, channels: int) -> Blob:
    image = np.full((1, SIZE, SIZE, channels), 60, np.float32)
    image[:, 20:26, 6:12] = 250
    return Blob(image, (22.5, 8.5), blob_weights(model))


def blob_weights(model: keras.Model) -> list[np.ndarray]:
    """Weights under which the score of class 1 grows with what is brighter than 0.6 of white, and others' fall."""
    rng, found = np.random.default_rng(1), []
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path
        fan_in = max(1, int(np.prod(shape[:-1])))
        if "see/kernel" in name:
            value = np.full(shape, 1 / fan_in)
        elif "see/bias" in name:
            value = np.full(shape, -0.6)
        elif "scores/kernel" in name:
            value = np.tile(np.where(np.arange(shape[-1]) == min(1, shape[-1] - 1), 4.0, -4.0), (shape[0], 1))
        elif "kernel" in name:
            value = rng.uniform(0.5, 1.5, shape) * 4 / fan_in
        else:
            value = np.ones(shape) if "gamma" in name or "variance" in name else np.zeros(shape)
        found.append(value.astype(np.float32))
    return found


TRUNKS: dict[str, Trunk] = {
    "nested twice": nested_twice,
    "channels first inside": channels_first,
    "Permute before Flatten": permute_before_flatten,
    "two branches": two_branches,
    "squeeze and excitation": squeeze_excitation,
    "selective kernel": selective_kernel,
    "CBAM": cbam,
    "GroupNormalization": group_normalization,
    "U-Net trunk": u_net,
    "LSTM tail": lstm_tail,
    "MultiHeadAttention": attention,
    "dilated branches": aspp,
}


# Wrapped by xai.wrap --------------------------------------------------------------------------------------------------


def _wrapped(
    precision: str,
    make: Callable[[], keras.Model],
    logits: Callable[[keras.Model, tf.Tensor], tf.Tensor],
    targets: tuple[int, int] = (0, 1),
    **options: Any,
) -> Subject:
    """A model that does not take images in [0, 255] alone, or returns something else than scores of classes."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    try:
        core = make()
    finally:
        keras.config.set_dtype_policy("float32")
    model = xai.wrap(core, **options)
    return Subject(model, lambda x: logits(core, x), images(2, SIZE), np.array(targets), precision)


def _scores(x: Any, units: int, last: str = "linear", name: str = "scores") -> Any:
    return L.Dense(units, activation=last, name=name, bias_initializer="random_normal", dtype="float32")(x)


def _of_unit_images() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, _scores(plain(inputs), 3))


def _imagenet(core: keras.Model, x: tf.Tensor) -> tf.Tensor:
    return core((x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], training=False)


def _image_and_table() -> keras.Model:
    image, table = keras.Input((SIZE, SIZE, 3), name="image"), keras.Input((2,), name="clinical")
    x = L.Concatenate()([plain(L.Rescaling(1 / 255)(image)), L.Dense(4, activation="relu")(table)])
    return keras.Model({"image": image, "clinical": table}, _scores(x, 3))


def _with_table(core: keras.Model, x: tf.Tensor) -> tf.Tensor:
    rows = tf.tile(tf.constant([[0.5, -1.0]]), (len(x), 1))
    return core({"image": x, "clinical": rows}, training=False)


def _several_outputs() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = plain(L.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, {"age": _scores(x, 1, name="age"), "diagnosis": _scores(x, 3, name="diagnosis")})


def _cumulative() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = _scores(plain(L.Rescaling(1 / 255)(inputs)), 1)
    return keras.Model(inputs, L.Activation("sigmoid", dtype="float32")(x + np.array([[1.0, 0.0, -1.0]], np.float32)))


def _log_ordinal(core: keras.Model, x: tf.Tensor) -> tf.Tensor:
    above = tf.concat([tf.ones((len(x), 1)), core(x, training=False), tf.zeros((len(x), 1))], axis=1)
    return tf.math.log(above[:, :-1] - above[:, 1:])


def _members() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = L.Rescaling(1 / 255)(inputs)
    trunks = [L.GlobalAveragePooling2D()(conv(conv(x, strides=2), strides=2)) for _ in range(2)]
    parts = [_scores(trunk, 3, "softmax", f"member{number}") for number, trunk in enumerate(trunks)]
    return keras.Model(inputs, L.Average(dtype="float32")(parts))


def _measured() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, _scores(plain(L.Rescaling(1 / 255)(inputs)), 1))


@keras.saving.register_keras_serializable("contract")
class OwnCall(keras.Model):
    """A model with a call of its own, of layers and, if it ``looks`` at values, of a step that no graph can show."""

    def __init__(self, looks: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.looks, self.scaled, self.pool = looks, L.Rescaling(1 / 255), L.GlobalAveragePooling2D()
        self.first, self.second = (L.Conv2D(4, 3, 2, "same", activation="relu", name=n) for n in ("first", "second"))
        self.head = L.Dense(3, name="scores", dtype="float32")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.second(self.first(self.scaled(x)))
        if self.looks:
            x = tf.stack(list(tf.unstack(x, axis=1)), axis=1)
        return self.head(self.pool(x))


def _own_call(looks: bool) -> keras.Model:
    model = OwnCall(looks)
    model(np.zeros((1, SIZE, SIZE, 3), np.float32))
    return model


def _saved_model() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        inputs = keras.Input((SIZE, SIZE, 3))
        keras.Model(inputs, _scores(plain(L.Rescaling(1 / 255)(inputs)), 3)).export(folder, verbose=False)
        return L.TFSMLayer(folder, call_endpoint="serving_default", dtype="float32")


def _plain_call(core: keras.Model, x: tf.Tensor) -> tf.Tensor:
    return core(x, training=False)


WRAPPED: dict[str, tuple[Any, ...]] = {
    "scaled outside": (_of_unit_images, _imagenet, (1, 2), {"scaling": "imagenet"}),
    "image and table": (_image_and_table, _with_table, (1, 2), {"inputs": {"clinical": [0.5, -1.0]}}),
    "several outputs": (
        _several_outputs,
        lambda core, x: core(x, training=False)["diagnosis"],
        (1, 2),
        {"output": "diagnosis"},
    ),
    "ordinal": (_cumulative, _log_ordinal, (1, 2), {"head": "ordinal"}),
    "regression": (_measured, _plain_call, (0, 0), {"head": "regression"}),
    "own call": (lambda: _own_call(False), _plain_call, (1, 2), {"image_size": (SIZE, SIZE, 3)}),
    "own call, opaque": (lambda: _own_call(True), _plain_call, (1, 2), {"image_size": (SIZE, SIZE, 3)}),
    "SavedModel": (_saved_model, lambda core, x: core(x)["output_0"], (1, 2), {"image_size": (SIZE, SIZE, 3)}),
    "mean of members": (_members, lambda core, x: tf.math.log(core(x, training=False)), (1, 2), {}),
}


def shapes() -> dict[str, Callable[[str], Subject]]:
    """Each network's maker, which takes the precision."""

    def of_trunk(trunk: Trunk) -> Callable[[str], Subject]:
        return lambda precision: _subject(precision, trunk)

    def of_wrapped(make: Any, logits: Any, targets: Any, options: Any) -> Callable[[str], Subject]:
        return lambda precision: _wrapped(precision, make, logits, targets, **options)

    return {
        **{name: of_trunk(trunk) for name, trunk in TRUNKS.items()},
        "logits": lambda precision: _subject(precision, last="linear"),
        "one unit": lambda precision: _subject(precision, last="sigmoid", units=1),
        "multi-label": lambda precision: _subject(precision, last="sigmoid"),
        "grey": lambda precision: _subject(precision, channels=1),
        "five channels": lambda precision: _subject(precision, channels=5),
        **{name: of_wrapped(*given) for name, given in WRAPPED.items()},
    }
