"""Nearest examples on a network whose features, contributions and so neighbours are known by hand."""

import numpy as np
import pytest
from conftest import SIZE

from xaiutils.attribution import ModelError, Network
from xaiutils.backend import keras
from xaiutils.beyond_maps.nearest_examples import (
    WEIGHTINGS,
    features_and_gradients,
    layer_of_features,
    nearest_by_weighting,
    nearest_examples,
    shared_classes,
)
from xaiutils.datasets import ImageDataset

W = np.array([[1.0, -1.0], [0.0, 0.0], [0.1, 0.2]], np.float32)  # of red, green, blue, for the two classes
B = np.array([-50.0, 50.0], np.float32)


@pytest.fixture(scope="module")
def colours():
    """Features are an image's mean colour; class 0 is answered where 2 red - 0.1 blue > 100; green does not count."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    model.layers[-1].set_weights([W, B])
    return model


def flat(*colours):
    return np.stack([np.full((SIZE, SIZE, 3), c, np.float32) for c in colours])


def data(colours, labels, **options):
    ids = [f"image {i}" for i in range(len(labels))]
    return ImageDataset(flat(*colours).astype(np.uint8), np.array(labels), ("red", "blue"), ids, **options)


QUERY = (100, 50, 10)
EXAMPLES = [(100, 250, 10), (140, 50, 10), (98, 52, 100), (40, 50, 10)]  # answers red, red, red, blue


def test_neighbours_by_hand(colours):
    examples = data(EXAMPLES, [0, 1, 1, 0])
    found = nearest_by_weighting(colours, flat(QUERY), examples, WEIGHTINGS, k=4)
    for w in WEIGHTINGS:
        alone = nearest_examples(colours, flat(QUERY), examples, k=4, weighting=w)
        np.testing.assert_array_equal(alone.distances, found[w].distances)
    # Among colours, the differences are (0, 200, 0), (40, 0, 0), (2, 2, 90), (60, 0, 0).
    assert found["none"].positions.tolist() == [[1, 3, 2, 0]]
    np.testing.assert_allclose(found["none"].distances, [[40, 60, np.sqrt(8108), 200]], rtol=1e-5)
    # Contributions: the query's (100, 0, 1); the examples' (100, 0, 1), (140, 0, 1), (98, 0, 10), and to blue, which
    # the last one is taken for, (-40, 0, 2).
    assert found["contributions"].positions.tolist() == [[0, 2, 1, 3]]
    np.testing.assert_allclose(
        found["contributions"].distances, [[0, np.sqrt(4 + 81), 40, np.sqrt(140**2 + 1)]], rtol=1e-5, atol=1e-4
    )
    # Weights 100 / 101, 0 and 1 / 101: (0, 200, 0), (2, 2, 90), (40, 0, 0), (60, 0, 0).
    assert found["query"].positions.tolist() == [[0, 2, 1, 3]]
    expected = np.sqrt([0, (400 + 8100) / 101, 1600 * 100 / 101, 3600 * 100 / 101])
    np.testing.assert_allclose(found["query"].distances, [expected], rtol=1e-5, atol=1e-4)
    assert found["query"].labels.tolist() == [[0, 1, 1, 0]]
    assert all(one.targets.tolist() == [0] for one in found.values())


def test_shuffled_weights_are_those_of_other_features(colours):
    examples = data(EXAMPLES, [0, 1, 1, 0])
    seed = next(s for s in range(50) if np.random.default_rng(s).permutation(3).tolist() == [1, 0, 2])
    found = nearest_examples(colours, flat(QUERY), examples, k=4, weighting="shuffled", seed=seed)
    # Red does not count and green does: contributions (0, 50, 1) and (0, 250, 1), (0, 50, 1), (0, 52, 10), (0, -50, 2).
    assert found.positions.tolist() == [[1, 2, 3, 0]]
    np.testing.assert_allclose(found.distances, [[0, np.sqrt(85), np.sqrt(10001), 200]], rtol=1e-5, atol=1e-4)


def test_a_target_may_be_given(colours):
    """The query's contributions to blue, (-100, 0, 2): nearest is the image that is taken for blue, (-40, 0, 2)."""
    found = nearest_examples(colours, flat(QUERY), data(EXAMPLES, [0, 1, 1, 0]), targets=1, k=1)
    assert (found.positions.tolist(), found.targets.tolist()) == ([[3]], [1])
    np.testing.assert_allclose(found.distances, [[60]], rtol=1e-5)


def test_examples_of_the_same_patient_are_left_out(colours):
    examples = data(EXAMPLES, [0, 1, 1, 0], patients=["a", "b", "b", "c"])
    found = nearest_examples(colours, flat(QUERY, QUERY), examples, k=2, patients=["a", "b"])
    assert found.positions.tolist() == [[2, 1], [0, 3]]
    with pytest.raises(ValueError, match="fewer than k=3 examples of other patients for image 1"):
        nearest_examples(colours, flat(QUERY, QUERY), examples, k=3, patients=["a", "b"])


@pytest.mark.parametrize("shape", ["flat softmax", "nested", "one-unit sigmoid", "vit"])
def test_features_and_gradients_are_keras_own(models, images, shape):
    """What the last Dense layer reads, and that layer's column of the class; a sigmoid's unit z is (-z, z)."""
    model, network = models[shape], Network.of(models[shape])
    dense = [x for x in model.layers if isinstance(x, keras.layers.Dense)][-1]
    targets = np.array([0, 1, 0, 1, 1], np.int32)
    features, gradients = features_and_gradients(network, images, targets, layer_of_features(network), 2)
    expected = keras.Model(model.inputs[0], dense.input).predict(images, verbose=0)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    kernel = dense.get_weights()[0]
    kernel = np.concatenate([-kernel, kernel], axis=1) if shape == "one-unit sigmoid" else kernel
    np.testing.assert_allclose(gradients, kernel[:, targets].T, rtol=1e-4, atol=1e-6)


def test_a_feature_map_counts_by_its_mean(models, images):
    """Before global average pooling the mean over places and the sum of the gradients are the pooled features' own."""
    network, targets = Network.of(models["flat softmax"]), np.zeros(5, np.int32)
    pooled, mapped = (features_and_gradients(network, images, targets, path, 5) for path in ("pool", "conv2"))
    for a, b in zip(pooled, mapped, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    tokens = Network.of(models["vit"])
    path = tokens.cam_layer()
    assert features_and_gradients(tokens, images, targets, path, 5)[0].shape == (5, 16)


def test_shares_by_hand(colours):
    """Two images, of which the nearest two examples are (red, blue) and (red, red); half of the examples are red."""
    examples, ds = data(EXAMPLES, [0, 1, 1, 0]), data([QUERY, (60, 0, 0)], [1, 0], patients=["a", "b"])
    found = {w: nearest_examples(colours, ds.images, examples, k=2, weighting=w) for w in ("none", "contributions")}
    assert found["none"].labels.tolist() == [[1, 0], [0, 1]]
    assert found["contributions"].labels.tolist() == [[0, 1], [1, 0]]
    table = shared_classes(found, ds, examples).set_index(["weighting", "of"])
    assert table["mean"].tolist() == [0.5] * 4
    assert table["chance"].tolist() == [0.5] * 4
    one = {w: nearest_examples(colours, ds.images, examples, k=1, weighting=w) for w in ("none", "contributions")}
    table = shared_classes(one, ds, examples).set_index(["weighting", "of"])
    assert table.loc[("none", "label"), "mean"] == 1  # blue is nearest to the blue one, red to the red
    assert table.loc[("contributions", "label"), "mean"] == 0
    assert table.loc[("contributions", "label"), "gain"] == -1
    assert table.loc[("contributions", "target"), "mean"] == 0.5  # both are answered red; the neighbours red, blue
    assert np.isnan(table.loc[("none", "label"), "gain"])
    assert "gain" not in shared_classes({"contributions": one["contributions"]}, ds, examples)
    with pytest.raises(ValueError, match="neighbours of 2 images; ds has 1"):
        shared_classes(one, ds.take(1), examples)


def test_what_cannot_be_meant_is_refused(colours, models, images):
    examples = data(EXAMPLES, [0, 1, 1, 0])
    with pytest.raises(ValueError, match="contributions, query, none, shuffled"):
        nearest_examples(colours, flat(QUERY), examples, weighting="cosine")
    with pytest.raises(ValueError, match="k=5"):
        nearest_examples(colours, flat(QUERY), examples, k=5)
    with pytest.raises(ValueError, match="whose patients are known"):
        nearest_examples(colours, flat(QUERY), examples, patients=["a"])
    with pytest.raises(ModelError, match="is not in the model"):
        nearest_examples(colours, flat(QUERY), examples, layer="features")
    several = ImageDataset(examples.pixels, np.eye(4, 2, dtype=np.int8), ("red", "blue"), examples.ids)
    with pytest.raises(ValueError, match="one class for each image"):
        nearest_examples(colours, flat(QUERY), several)
