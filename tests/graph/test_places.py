"""Maps lie where their layer's field lies in the image, and show all that the score goes through.

One bright blob in a rectangular image is all the evidence there is: whatever a model does to the image first, and
however it stores its tensors, a map peaks at the blob, or the model is refused in words.
"""

import warnings

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.cam.layer_aggregate import default_layers
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.passes import enlarge
from xaiutils.graph.places import Place
from xaiutils.models.vit import ClassToken, SelfAttention, TakeClassToken

L, ops = keras.layers, keras.ops
H, W = 64, 48
ROW, COLUMN = 35.5, 13.5
IMAGE = np.full((1, H, W, 3), 60, np.float32)
IMAGE[:, 33:39, 11:17] = 250


def conv(strides=1, **options):
    options = {"padding": "same", "activation": "relu", "kernel_initializer": "ones", **options}
    return L.Conv2D(1, 3, strides=strides, **options)


def head(x, data_format=None):
    weights = keras.initializers.Constant([[-1.0, 1.0]])
    return L.Dense(2, kernel_initializer=weights)(L.GlobalAveragePooling2D(data_format=data_format)(x))


def behind(change):
    """A convolution behind a change of the image."""
    inputs = keras.Input((H, W, 3))
    return keras.Model(inputs, head(conv()(L.Rescaling(1 / 255)(change(inputs)))))


def of_function(function, shape):
    return L.Lambda(function, output_shape=shape)


CHANGES = {
    "center crop": lambda x: L.CenterCrop(56, 32)(x),
    "cropping": lambda x: L.Cropping2D(((0, 8), (4, 12)))(x),
    "slice": lambda x: x[:, 10:50, 5:40],
    "strided slice, mirrored": lambda x: x[:, 1::3, ::-2],
    "flip": lambda x: ops.flip(x, 2),
    "flip then resize": lambda x: L.Resizing(40, 30)(ops.flip(x, 1)),
    "tf.reverse": lambda x: of_function(lambda v: tf.reverse(v, [1]), (H, W, 3))(x),
    "rot90": lambda x: of_function(tf.image.rot90, (W, H, 3))(x),
    "transposed twice": lambda x: ops.transpose(ops.transpose(x, (0, 3, 2, 1)), (0, 3, 2, 1)),
    "transposed": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "crop to aspect": lambda x: L.Resizing(40, 40, crop_to_aspect_ratio=True)(x),
    "pad to aspect": lambda x: L.Resizing(96, 48, pad_to_aspect_ratio=True)(x),
    "enlarged": lambda x: L.Resizing(128, 128)(x),
    "nearest": lambda x: L.Resizing(100, 77, interpolation="nearest")(x),
    "padding": lambda x: L.ZeroPadding2D(((0, 30), (12, 0)))(x),
    "reflected border": lambda x: ops.pad(x, ((0, 0), (8, 8), (4, 4), (0, 0)), mode="reflect"),
    "pad_images": lambda x: ops.image.pad_images(x, 10, 4, target_height=90, target_width=70),
    "affine": lambda x: ops.image.affine_transform(x, np.array([0.5, 0, 8, 0, 0.7, 6, 0, 0], np.float32)),
    "roll": lambda x: ops.roll(x, (13, -9), (1, 2)),
    "halves swapped": lambda x: L.Concatenate(axis=1)([x[:, 32:], x[:, :32]]),
    "average pooling": lambda x: L.AveragePooling2D(2)(x),
    "max pooling in a function": lambda x: of_function(lambda v: tf.nn.max_pool2d(v, 3, 2, "SAME"), (32, 24, 3))(x),
    "standardised": lambda x: of_function(tf.image.per_image_standardization, (H, W, 3))(x),
    "pipeline": lambda x: L.Pipeline([L.CenterCrop(40, 40), L.Resizing(20, 20)])(x),
    "random layers": lambda x: L.RandomRotation(0.3)(L.RandomFlip()(x)),
    "random crop": lambda x: L.RandomCrop(48, 40)(x),  # declares a crop, and returns the whole image when it rests
    "space to depth": lambda x: of_function(lambda v: tf.nn.space_to_depth(v, 2), (H // 2, W // 2, 12))(x),
}


def channels_first():
    inputs = keras.Input((H, W, 3))
    x = L.Permute((3, 1, 2))(L.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, head(conv(2, data_format="channels_first", name="c")(x), "channels_first"))


def permuted_before_flatten():
    inputs = keras.Input((H, W, 3))
    x = L.Permute((3, 1, 2))(conv(4)(L.Rescaling(1 / 255)(inputs)))
    weights = np.stack([-np.ones(16 * 12), np.ones(16 * 12)], axis=1)
    return keras.Model(inputs, L.Dense(2, kernel_initializer=keras.initializers.Constant(weights))(L.Flatten()(x)))


def crop_in_a_nested_model_behind_a_permute():
    inner = keras.Input((3, 40, 40))
    body = keras.Model(inner, conv(2)(L.CenterCrop(32, 32)(L.Permute((2, 3, 1))(inner))))
    inputs = keras.Input((H, W, 3))
    return keras.Model(inputs, head(body(L.Permute((3, 1, 2))(L.Rescaling(1 / 255)(inputs)[:, 10:50, 2:42]))))


def several_calls(*views):
    inputs = keras.Input((H, W, 3))
    x = L.Rescaling(1 / 255)(inputs)
    seen = [view(x) for view in views]
    inner = keras.Input(seen[0].shape[1:])
    body = keras.Model(inner, L.GlobalAveragePooling2D()(conv(2)(inner)))
    x = L.Average()([body(view) for view in seen])
    return keras.Model(inputs, L.Dense(2, kernel_initializer=keras.initializers.Constant([[-1.0, 1.0]]))(x))


def mirrored_copy():
    return several_calls(lambda x: x, lambda x: ops.flip(x, 2))


def three_crops():
    return several_calls(
        lambda x: x[:, 20:52, 4:36], lambda x: x[:, 8:40, 6:38], lambda x: ops.flip(x[:, 16:48, :32], (1, 2))
    )


def mixed_fields():
    inputs = keras.Input((H, W, 3))
    x = L.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, head(L.Average()([conv()(x), ops.flip(conv()(x), 2)])))


def tokens(stored):
    inputs = keras.Input((H, W, 3))
    weights = keras.initializers.Constant(1 / 64)
    x = L.Conv2D(4, 8, strides=8, kernel_initializer=weights)(L.Rescaling(1 / 255)(inputs))
    if stored == "channels first":
        x = L.Reshape((4, 48), name="tokens")(L.Permute((3, 1, 2))(x))
    else:
        x = L.Reshape((48, 4), name="tokens")(L.Permute((2, 1, 3))(x) if stored == "column by column" else x)
    x = L.GlobalAveragePooling1D(data_format="channels_first" if stored == "channels first" else None)(x)
    ends = keras.initializers.Constant(np.stack([-np.ones(4), np.ones(4)], axis=1))
    return keras.Model(inputs, L.Dense(2, kernel_initializer=ends)(x))


def rows_are_places():
    """As a patch merging that multiplies matrices: all places of all images one below the other."""
    inputs = keras.Input((H, W, 3))
    rows = ops.reshape(conv(2)(L.Rescaling(1 / 255)(inputs)), (-1, 1))
    return keras.Model(
        inputs, head(L.ReLU()(ops.reshape(L.Dense(1, kernel_initializer="ones")(rows), (-1, 32, 24, 1))))
    )


def rows_are_windows():
    inputs = keras.Input((H, W, 3))
    x = ops.reshape(conv(2)(L.Rescaling(1 / 255)(inputs)), (-1, 4, 8, 3, 8, 1))
    windows = conv(kernel_initializer="ones")(ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 8, 8, 1)))
    back = ops.transpose(ops.reshape(windows, (-1, 4, 3, 8, 8, 1)), (0, 1, 3, 2, 4, 5))
    return keras.Model(inputs, head(ops.reshape(back, (-1, 32, 24, 1))))


MODELS = {
    **{name: lambda change=change: behind(change) for name, change in CHANGES.items()},
    "channels first": channels_first,
    "permuted before Flatten": permuted_before_flatten,
    "crop in a nested model behind a permute": crop_in_a_nested_model_behind_a_permute,
    "mirrored copy": mirrored_copy,
    "three crops": three_crops,
    "mixed fields": mixed_fields,
    "rows are places": rows_are_places,
    "rows are windows": rows_are_windows,
}
ALL = ("cam", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "score_cam", "ablation_cam")
ALL += ("relevance_cam", "xrelevance_cam", "layer_aggregate", "guided_grad_cam", "full_grad")


def check_peak(model, method, image=IMAGE, within=5):
    found = np.abs(xai.explain(model, image, 1, method)[0])
    peak = np.argwhere(found >= found.max() * (1 - 1e-3)).mean(axis=0)
    assert np.abs(peak - (ROW, COLUMN)).max() <= within, peak


@pytest.mark.parametrize("name", MODELS)
def test_a_map_peaks_at_the_blob(name):
    check_peak(MODELS[name](), "hirescam")


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("name", ["cropping", "rot90", "mirrored copy"])
def test_every_method_peaks_at_the_blob(name, method):
    if (name, method) == ("mirrored copy", "cam"):
        with pytest.raises(ModelError, match="global average pooling and one Dense layer"):
            xai.explain(MODELS[name](), IMAGE, 1, method)
    else:
        check_peak(MODELS[name](), method)


@pytest.mark.parametrize("stored", ["row by row", "column by column", "channels first"])
def test_tokens_are_a_grid_whatever_their_order(stored):
    model = tokens(stored)
    network = Network.of(model)
    assert network.grid("tokens") == (8, 6)
    activation = network.forward(tf.constant(IMAGE), ["tokens"])[1][0]
    expected = IMAGE[0].reshape(8, 8, 6, 8, 3).sum(axis=(1, 3, 4)) / 255 / 64
    np.testing.assert_allclose(network.to_grid("tokens", activation)[0, :, :, 0], expected, rtol=1e-4)
    found = xai.explain(model, IMAGE, 1, "hirescam", layer="tokens")
    assert np.abs(np.argwhere(found[0] == found.max()).mean(axis=0) - (ROW, COLUMN)).max() <= 8


def test_channels_first_layers_have_the_grid_of_the_image():
    network = Network.of(channels_first())
    assert network.grid("c") == (32, 24)
    activation = network.forward(tf.constant(IMAGE), ["c"])[1][0]
    assert activation.shape == (1, 1, 32, 24)
    np.testing.assert_array_equal(network.to_grid("c", activation)[0, :, :, 0], activation[0, 0])


# The convention -------------------------------------------------------------------------------------------------------


def test_stacks_of_convolutions_stretch_their_grid():
    """As the published methods do, whatever a stack's own padding; the loss of a wide border is counted."""
    inputs = keras.Input((H, W, 3))
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(inputs)
    x = conv(2, padding="valid", name="own_padding")(x)
    x = conv(2, name="same")(L.MaxPooling2D(2)(x))
    network = Network.of(keras.Model(inputs, head(x)))
    assert network.place("own_padding").covers((32, 24), (H, W))
    assert network.place("same").covers((8, 6), (H, W))
    inputs = x = keras.Input((H, W, 3))
    for number in range(4):
        x = conv(padding="valid", name=f"valid{number}")(x)
    network = Network.of(keras.Model(inputs, head(x)))
    assert network.place("valid0").covers((62, 46), (H, W))  # by less than a cell
    assert network.place("valid3") == Place((4.0, 1.0), (4.0, 1.0))


def test_enlarging_at_a_place():
    maps = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    whole = enlarge(maps, 16, 12)
    np.testing.assert_allclose(enlarge(maps, 16, 12, Place((1.5, 4.0), (1.5, 4.0))), whole)
    placed = enlarge(maps, 32, 20, Place((1.5 + 10, 4.0), (1.5 + 5, 4.0)))
    np.testing.assert_allclose(placed[:, 10:26, 5:17], whole, atol=1e-6)
    placed[:, 10:26, 5:17] = 0
    assert not placed.any()
    cut = enlarge(maps, 10, 8, Place((1.5 - 3, 4.0), (1.5 - 2, 4.0)))  # a padded image: the grid goes on outside
    np.testing.assert_allclose(cut, whole[:, 3:13, 2:10], atol=1e-6)


def test_score_cam_masks_lie_at_their_place():
    """The channel's mask leaves the evidence in the image only if it is laid over it."""
    change = CHANGES["cropping"]
    check_peak(behind(change), "score_cam")
    far = IMAGE[:, :, ::-1].copy()  # the blob lies outside of the crop: no evidence
    with pytest.warns(UserWarning, match="0 everywhere"):
        assert not xai.explain(behind(lambda x: x[:, :, :24]), far * (far > 100), 1, "score_cam").any()


@pytest.mark.parametrize("method", ["ablation_cam", "score_cam", "faster_score_cam", "layer_aggregate"])
def test_shapes_are_those_of_the_tensors_not_the_declared_ones(method):
    model = behind(CHANGES["random crop"])
    network = Network.of(model)
    assert network.grid(network.cam_layer()) == (H, W)
    parameters = {"base": "ablation_cam"} if method == "layer_aggregate" else {}
    np.testing.assert_allclose(
        xai.explain(model, IMAGE, 1, method, **parameters),
        xai.explain(behind(lambda x: x), IMAGE, 1, method, **parameters),
        rtol=1e-5,
        atol=1e-6,
    )


# Refusals -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_placed_is_refused_by_name():
    turned = behind(lambda x: ops.image.affine_transform(x, np.array([0.8, -0.6, 8, 0.6, 0.8, -6, 0, 0], np.float32)))
    with pytest.raises(ModelError, match=r"cannot be placed.*affine_transform"):
        xai.explain(turned, IMAGE, 1)
    mosaic = behind(lambda x: L.Concatenate(axis=2, name="mosaic")([x, ops.flip(x, 2)]))
    with pytest.raises(ModelError, match="do not fill a grid"):
        xai.explain(mosaic, IMAGE, 1)
    network = Network.of(mixed_fields())
    average = next(step for step in network.steps if isinstance(step.operation, L.Average))
    with pytest.raises(ModelError, match=f"{average.path}.*different places"):
        network.cam_layer(average.path)
    assert xai.explain(turned, IMAGE, 1, "vanilla_gradients").any()


def test_libraries_are_not_asked_to_place_maps():
    with pytest.raises(ModelError, match="libraries stretch"):
        xai.explain(behind(CHANGES["cropping"]), IMAGE, 1, "grad_cam", "tf-explain")


# Which layers ---------------------------------------------------------------------------------------------------------


def two_branches(kernel):
    inputs = keras.Input((H, W, 3))
    x = L.Rescaling(1 / 255)(inputs)
    fine, coarse = conv(2, name="fine")(x), conv(8, name="coarse")(x)
    x = L.Concatenate()([L.GlobalAveragePooling2D()(fine), L.GlobalAveragePooling2D()(coarse)])
    return keras.Model(inputs, L.Dense(2, kernel_initializer=keras.initializers.Constant(kernel))(x))


def test_branches_that_join_behind_their_pooling_are_added():
    model = two_branches([[-1.0, 1.0], [-2.0, 2.0]])
    assert set(Network.of(model).cam_layers()) == {"fine", "coarse"}
    with pytest.warns(UserWarning, match=r"part of the score goes around layer 'fine'.*'coarse'"):
        fine = xai.explain(model, IMAGE, 1, "hirescam", layer="fine")
    coarse = xai.explain(model, IMAGE, 1, "hirescam", layer="coarse")
    np.testing.assert_allclose(xai.explain(model, IMAGE, 1, "hirescam"), fine + coarse, rtol=1e-5)
    one = two_branches([[0.0, 0.0], [-1.0, 1.0]])
    assert xai.explain(one, IMAGE, 1).max() > 0
    together = xai.explain_all(model, IMAGE, 1, ["hirescam", "grad_cam"])
    np.testing.assert_allclose(together["hirescam"], fine + coarse, rtol=1e-5)


def test_halves_of_the_image_are_one_map_before_they_are_scaled():
    inputs = keras.Input((H, W, 3))
    x = L.Rescaling(1 / 255)(inputs)
    halves = [L.GlobalAveragePooling2D()(conv()(half)) for half in (x[:, :, : W // 2], x[:, :, W // 2 :])]
    model = keras.Model(
        inputs, L.Dense(2, kernel_initializer=keras.initializers.Constant([[-1.0, 1.0]] * 2))(L.Concatenate()(halves))
    )
    check_peak(model, "layer_aggregate")


def test_one_layer_before_all_branches_is_taken_where_one_branch_lies_behind_the_other():
    inputs = keras.Input((H, W, 3))
    first = conv(2, name="first")(L.Rescaling(1 / 255)(inputs))
    second = conv(2, name="second")(first)
    x = L.Concatenate()([L.GlobalAveragePooling2D()(first), L.GlobalAveragePooling2D()(second)])
    network = Network.of(keras.Model(inputs, L.Dense(2)(x)))
    assert network.cam_layers() == ["first"]
    assert default_layers(network) == ["first"]


def test_a_path_around_all_maps_is_refused_by_name():
    inputs = keras.Input((H, W, 3))
    scaled = L.Rescaling(1 / 255)(inputs)
    mean = L.GlobalAveragePooling2D(name="mean_colour")(scaled)
    x = L.Concatenate()([L.GlobalAveragePooling2D()(conv(name="c")(scaled)), mean])
    with pytest.raises(ModelError, match="beside 'c' a part goes .* around all feature maps"):
        xai.explain(keras.Model(inputs, L.Dense(2)(x)), IMAGE, 1)


def test_gates_and_residuals_are_no_branches():
    inputs = keras.Input((H, W, 3))
    x = conv(2)(L.Rescaling(1 / 255)(inputs))
    gate = L.Dense(1, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Multiply(name="gated")([x, gate])
    x = L.Add(name="sum")([x, conv(name="branch")(x)])
    assert Network.of(keras.Model(inputs, head(x))).cam_layers() == ["sum"]


def test_inception_at_96_pixels_reads_what_all_branches_read():
    model = keras.applications.InceptionV3(weights=None, classes=2, input_shape=(96, 96, 3))
    assert Network.of(model).cam_layers() == ["mixed7"]


def test_an_empty_map_says_why():
    model = two_branches([[1.0, -1.0], [1.0, -1.0]])
    with pytest.warns(UserWarning, match=r"grad_cam: the maps of 1 of 1 images are 0 everywhere .*ReLU"):
        assert not xai.explain(model, IMAGE, 1).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xai.explain(model, IMAGE, 1, "hirescam")


# Attention ------------------------------------------------------------------------------------------------------------


class TokenMixer(SelfAttention):
    """An attention layer by another name."""


def vit(attention=SelfAttention, pool="class token", view=lambda x: x, copies=1):
    keras.utils.set_random_seed(0)
    inner = keras.Input((H, W, 3))
    x = L.Conv2D(8, 8, strides=8)(L.Rescaling(1 / 255)(view(inner)))
    x = L.Reshape((-1, 8), name="tokens")(x)
    x = ClassToken()(x) if pool == "class token" else x
    y = L.LayerNormalization(name="before")(x)
    y = attention(2, name="mixer")(y)[0] if attention is not None else L.MultiHeadAttention(2, 4, name="mixer")(y, y)
    x = L.LayerNormalization()(L.Add()([x, y]))
    x = TakeClassToken()(x) if pool == "class token" else L.GlobalAveragePooling1D()(x)
    body = keras.Model(inner, x, name="body")
    inputs = keras.Input((H, W, 3))
    x = body(inputs) if copies == 1 else L.Average()([body(inputs), body(ops.flip(inputs, 2))])
    return keras.Model(inputs, L.Dense(2)(x))


def test_attention_between_mixtures_of_places_reads_no_tokens_with_a_place():
    """So the map is that of the layer before it."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, 3))
    x = L.Conv2D(8, 8, strides=8, name="patches")(L.Rescaling(1 / 255)(inputs))
    x = L.Reshape((-1, 8))(x)
    y = L.Dense(x.shape[1])(L.Permute((2, 1))(x))
    y = L.Permute((2, 1))(L.MultiHeadAttention(2, 4, name="mixer")(y, y))
    x = L.GlobalAveragePooling1D()(L.Add()([x, y]))
    network = Network.of(keras.Model(inputs, L.Dense(2)(x)))
    assert [step.path for step in attention_steps(network)] == ["mixer"]
    assert network.cam_layers() == ["patches"]


@pytest.mark.parametrize("attention", [SelfAttention, TokenMixer, None])
def test_attention_is_found_by_what_it_does(attention):
    network = Network.of(vit(attention))
    assert [step.path for step in attention_steps(network)] == ["body/mixer"]
    assert network.cam_layers() == ["body/before"]
    assert default_layers(network) == ["body/before"]


def test_pooled_tokens_are_read_where_the_residual_stream_passes():
    assert Network.of(vit(pool="mean")).cam_layers() == ["body/tokens"]


def test_attention_maps_lie_at_their_place():
    model = vit(view=lambda x: x[:, 8:56, 16:])
    found = xai.explain(model, IMAGE, 1, "raw_attention")
    assert found[0, 8:56, 16:].all()
    found[0, 8:56, 16:] = 0
    assert not found.any()


def test_attention_of_two_calls_has_no_common_rows():
    model = vit(copies=2)
    assert len(Network.of(model).cam_layers()) == 2
    with pytest.raises(ModelError, match="lie side by side"):
        xai.explain(model, IMAGE, 1, "attention_rollout")


@pytest.mark.parametrize("make", [rows_are_places, rows_are_windows])
def test_the_map_after_rows_that_are_no_images_has_its_grid(make):
    """And not an earlier one: before a layer norm HiResCAM, say, is nothing but rounding."""
    network = Network.of(make())
    (path,) = network.cam_layers()
    assert network.grid(path) == (32, 24)
    (pooling,) = network.producers(network.steps_to_logits[-1])
    assert path == network.producers(pooling)[0].path
