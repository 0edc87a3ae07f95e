"""Relevance-maximising examples of a network whose channels are colours: who comes first, and where."""

import numpy as np
import pytest

from xaiutils.backend import keras
from xaiutils.beyond_maps.relevant_examples import relevant_examples

layers = keras.layers
SIZE = 48


@pytest.fixture(scope="module")
def colours():
    """Channel 0 is red, 1 green, 2 blue; class 0 has what is red, class 1 what is green, and what is blue speaks
    against both."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(3, 1, activation="relu", name="colours")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    model.get_layer("colours").set_weights([np.eye(3).reshape(1, 1, 3, 3), np.zeros(3)])
    model.get_layer("logits").set_weights([np.array([[1.0, 0], [0, 1], [-1, -1]]), np.zeros(2)])
    return model


@pytest.fixture(scope="module")
def squares():
    """On black: a small bright red square, a large dim one, a green one, and a blue one beside dim red."""
    images = np.zeros((4, SIZE, SIZE, 3), np.float32)
    images[0, 8:14, 30:36, 0] = 250
    images[1, 10:40, 5:35, 0] = 60
    images[2, 20:30, 20:30, 1] = 200
    images[3, 20:30, 20:30] = [20, 0, 100]
    return images


def test_ranking_by_sum_and_by_largest(colours, squares):
    """Red sums: 36 * 250, 900 * 60, 0, 100 * 20 grey levels; the largest: 250, 60, 0, 20; by the number of places."""
    for over_places, order, first in (("sum", [1, 0, 3, 2], 900 * 60), ("max", [0, 1, 3, 2], 250)):
        (found,) = relevant_examples(colours, squares, [0], 0, over_places=over_places, rule="epsilon")
        assert found.channel == 0
        np.testing.assert_array_equal(found.positions, order)
        assert found.relevance[0] == pytest.approx(first / SIZE**2, rel=1e-4)
        assert (np.diff(found.relevance) < 0).all()


def test_what_counts_is_relevance_not_activation(colours, squares):
    """Blue is most active in the last image, where it speaks against the class."""
    (found,) = relevant_examples(colours, squares, [2], 0, n_examples=4, rule="epsilon")
    assert found.positions[-1] == 3
    assert found.relevance[-1] < 0


def test_boxes_hold_the_squares(colours, squares):
    red, green = relevant_examples(colours, squares, [0, 1], [0, 0, 1, 0], n_examples=1, over_places="max")
    (top, bottom, left, right), (crop,) = red.boxes[0], red.crops(squares)
    assert top <= 8 < 14 <= bottom
    assert left <= 30 < 36 <= right
    assert bottom - top < 24 > right - left
    np.testing.assert_array_equal(crop, squares[0, top:bottom, left:right])
    assert green.positions.tolist() == [2]
    assert green.maps[0, 20:30, 20:30].sum() == pytest.approx(green.maps[0].sum(), rel=1e-4)
    (empty,) = relevant_examples(colours, squares[:1], [1], 0, n_examples=1)
    assert empty.boxes.tolist() == [[0, SIZE, 0, SIZE]]


def test_the_predicted_class_unless_told(colours, squares):
    (own,) = relevant_examples(colours, squares, [1])
    (told,) = relevant_examples(colours, squares, [1], [0, 0, 1, 0])
    np.testing.assert_array_equal(own.positions, told.positions)
    np.testing.assert_allclose(own.relevance, told.relevance)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"channels": [3]}, ValueError, r"channels=\[3\]; expected numbers from 0 to 2"),
        ({"channels": [0], "over_places": "mean"}, ValueError, "over_places='mean' is unknown"),
        ({"channels": [0], "n_examples": 0}, ValueError, "n_examples=0"),
        ({"channels": [0], "crop": 1.0}, ValueError, "crop=1.0"),
        ({"channels": [0], "rules": "epsilon"}, TypeError, "has no parameter 'rules'; did you mean rule"),
        ({"channels": [0], "reduction": "sum_abs"}, TypeError, "reduction"),
    ],
)
def test_bad_input_is_named(colours, squares, given, error, words):
    with pytest.raises(error, match=words):
        relevant_examples(colours, squares, **given)
