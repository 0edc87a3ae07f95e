"""The weights of Chen et al. 2020: equal to the gradient of the triplet loss, and handed on without one."""

import numpy as np
import pytest
from small_models import classifier

from xaiutils.backend import keras, tf
from xaiutils.beyond_maps.triplet_maps import triplet_maps, triplet_weights

IMAGES = np.random.default_rng(5).uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1, 0, 1, 0, 1])
MARGIN = 0.2


def test_weights_are_the_pooled_gradients_of_the_triplet_loss():
    model = classifier()
    found = triplet_weights(model, IMAGES, LABELS, MARGIN)
    conv = keras.Model(model.inputs[0], model.get_layer("conv").output)
    A = tf.constant(conv(IMAGES))
    unit = lambda x: tf.math.l2_normalize(tf.reduce_mean(x, axis=(1, 2)), axis=-1)  # noqa: E731
    others = unit(A)
    for position, weights in zip(found.positions, found.weights, strict=True):
        with tf.GradientTape() as tape:
            own = A[position][None]
            tape.watch(own)
            apart = tf.reduce_sum((unit(own) - others) ** 2, axis=-1)
            same = (LABELS[position] == LABELS) & (np.arange(8) != position)
            losses = MARGIN + apart[same][:, None] - apart[LABELS[position] != LABELS][None]
            loss = tf.reduce_mean(losses[losses > 0])
        gradient = tape.gradient(loss, own).numpy()[0].mean(axis=(0, 1))
        assert np.allclose(weights, -gradient, rtol=1e-3, atol=1e-6 * np.abs(gradient).max())


def test_maps_take_the_weights_of_the_nearest():
    model = classifier()
    known = triplet_weights(model, IMAGES, LABELS, MARGIN)
    maps, near = triplet_maps(model, IMAGES[known.positions], known, nearest=1)
    assert near[:, 0].tolist() == known.positions.tolist()
    assert maps.shape == (len(known.positions), 16, 16)
    assert maps.min() >= 0
    assert maps.any()
    A = keras.Model(model.inputs[0], model.get_layer("conv").output)(IMAGES[known.positions]).numpy()
    by_hand = np.maximum((A * known.weights[:, None, None]).sum(axis=-1), 0)
    assert np.allclose(maps[:, 8, 8], by_hand[:, 7, 7], rtol=0.5, atol=by_hand.max() / 4)  # a border of one is enlarged
    with pytest.raises(ValueError, match="nearest=99"):
        triplet_maps(model, IMAGES, known, 99)


def test_one_class_has_no_triplets():
    with pytest.raises(ValueError, match="no triplet"):
        triplet_weights(classifier(), IMAGES, np.zeros(8))
