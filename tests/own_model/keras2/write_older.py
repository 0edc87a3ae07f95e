"""Writes older_*.h5 and what the models answer; run in this folder with Keras 2.2.5 and TensorFlow 1.15."""

import keras
import numpy as np

L, M = keras.layers, keras.models


def seq():
    layers = [L.Conv2D(4, (3, 3), activation="relu", input_shape=(24, 24, 3)), L.BatchNormalization()]
    layers += [L.MaxPooling2D(), L.Dropout(0.3), L.Flatten(), L.Dense(3, activation="softmax")]
    return M.Sequential(layers)


def lstm():
    inputs = L.Input((24, 24, 3))
    x = L.Reshape((24, 72))(inputs)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True))(x)
    x = L.TimeDistributed(L.Dense(3))(x)
    return M.Model(inputs, L.Dense(2, activation="softmax")(L.GRU(4)(x)))


rng = np.random.RandomState(0)
for make in (seq, lstm):
    model = make()
    model.set_weights(
        [w + rng.normal(size=w.shape) * 0.03 if not (w == 1).all() else w * 1.1 for w in model.get_weights()]
    )
    x = rng.uniform(0, 255, (2, 24, 24, 3)).astype("float32")
    np.savez("older_%s.npz" % make.__name__, x=x, y=model.predict(x))  # noqa: UP031
    model.save("older_%s.h5" % make.__name__)  # noqa: UP031
