"""Writes the files of this folder, and what the models answer; run in it with TensorFlow 2.15, which has Keras 2.15."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import numpy as np
import tensorflow as tf
from tensorflow import keras

L = keras.layers
keras.utils.set_random_seed(0)


def write(suffix):
    keras.utils.set_random_seed(0)
    i = keras.Input((12, 12, 3), name="image")
    x = (i[..., ::-1] if suffix == "h5" else i[:, :, :, ::-1]) / 127.5  # Keras 2 cannot write an Ellipsis into .keras
    x = 1.0 - x
    body = keras.Sequential(
        [L.Conv2D(4, 3, use_bias=False, name="stem/conv"), L.BatchNormalization(name="stem/norm"), L.ReLU(6.0)],
        name="stem",
    )
    body.build((None, 12, 12, 3))
    x = body(x)
    inner = keras.Input((10, 10, 4))
    block = keras.Model(inner, L.LeakyReLU()(L.DepthwiseConv2D(3)(inner)), name="block")
    y = block(x)
    z = L.SeparableConv2D(4, 3, activation="swish")(x)
    x = tf.nn.relu(y + z) * 2.0
    x = L.SpatialDropout2D(0.2)(x)
    t = L.Reshape((64, 4))(x)
    t = L.MultiHeadAttention(1, 2)(t, t)
    t = L.Bidirectional(L.LSTM(2))(t)
    x = L.Concatenate()([t, tf.reduce_mean(x, axis=[1, 2])])
    m = keras.Model(i, L.Dense(2, activation="softmax", name="classes")(x), name="old")
    rng = np.random.default_rng(0)
    for w in m.weights:
        w.assign(rng.uniform(0.5, 1.5, w.shape) if "variance" in w.name else rng.normal(size=w.shape) * 0.5)
    images = rng.integers(0, 256, (2, 12, 12, 3)).astype("float32")
    m.save(f"old.{suffix}")
    return images, m.predict(images, verbose=0)


images, answers = write("h5")
np.testing.assert_allclose(write("keras")[1], answers)
np.savez_compressed("old.npz", images=images, answers=answers)
i = keras.Input((4, 4, 3))
keras.Model(i, L.Dense(2)(L.Flatten()(L.Lambda(lambda v: v / 255.0)(i)))).save("old_lambda.h5")
