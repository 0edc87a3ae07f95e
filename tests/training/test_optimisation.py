"""Optimisers and schedules: against hand computations, naive loops in NumPy, and Keras' own where it has them."""

from dataclasses import replace

import numpy as np
import pytest

from xaiutils.backend import keras, tf
from xaiutils.training import RECIPES
from xaiutils.training.optimisation import SGDW, AdamW, Constant, RAdam, make_optimizer, make_schedule
from xaiutils.training.recipe import Recipe


def follow(optimizer, start, gradients):
    """The variables' values after each step, for one list of gradients a step."""
    variables = [keras.Variable(np.asarray(s, np.float32)) for s in start]
    optimizer.build(variables)
    path = []
    for step in gradients:
        optimizer.apply([tf.constant(g, tf.float32) for g in step], variables)
        path.append([np.array(v) for v in variables])
    return path


def gaussians(steps, shapes=((3, 2), (2,)), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 1, s) for s in shapes], [[rng.normal(0, 1, s) for s in shapes] for _ in range(steps)]


def test_sgdw_by_hand():
    """Powers of two, so that float32 is exact. a 1/2, momentum 1/2, decay 1/4 of the variable, gradients 4 and 2."""
    # Step 1: v = -1/2*4 = -2; theta = 8 - 2 - 2 = 4. Step 2: v = -1 - 1 = -2; theta = 4 - 1 - 2 = 1.
    constant = follow(SGDW(0.5, 0.25, 0.5), [[8.0]], [[[4.0]], [[2.0]]])
    assert [float(p[0][0]) for p in constant] == [4, 1]
    # Times the rate, the decay is 1/8. Step 1: 8 - 1 - 2 = 5. Step 2: 5 - 5/8 - 2 = 19/8.
    scaled = follow(SGDW(0.5, 0.25, 0.5, decay_by_rate=True), [[8.0]], [[[4.0]], [[2.0]]])
    assert [float(p[0][0]) for p in scaled] == [5, 2.375]


def test_the_two_senses_of_decay_differ_by_the_rate_at_every_step():
    """Without gradients only decay is left, and a schedule moves one sense and not the other."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    nothing = [[[0.0]], [[0.0]]]
    assert [float(p[0][0]) for p in follow(SGDW(schedule, 0.5), [[16.0]], nothing)] == [8, 4]
    assert [float(p[0][0]) for p in follow(SGDW(schedule, 0.5, decay_by_rate=True), [[16.0]], nothing)] == [12, 10.5]
    assert [float(p[0][0]) for p in follow(AdamW(schedule, 0.5, False), [[16.0]], nothing)] == [8, 4]


def test_the_modern_sense_is_keras_own():
    start, gradients = gaussians(20)
    ours = follow(SGDW(0.1, 0.3, 0.9, decay_by_rate=True), start, gradients)
    keras_own = follow(keras.optimizers.SGD(0.1, 0.9, weight_decay=0.3), start, gradients)
    for a, b in zip(ours, keras_own, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6)
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 20, warmup_target=0.1, warmup_steps=5)
    ours = follow(AdamW(schedule, 0.3, clipnorm=1.0), start, gradients)
    keras_own = follow(keras.optimizers.AdamW(schedule, weight_decay=0.3, clipnorm=1.0), start, gradients)
    for a, b in zip(ours, keras_own, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_clipping_by_variable_and_of_all_together():
    """Gradients of norms 4 and 3 (5 together), clipped at 1; a rate of 1 and no momentum make the step visible."""
    start, gradients = [[0.0, 0.0], [0.0]], [[[0.0, 4.0], [3.0]]]
    each = follow(SGDW(1.0, 0.0, 0.0, clipnorm=1.0), start, gradients)[0]
    np.testing.assert_array_equal(each[0], [0, -1])
    np.testing.assert_array_equal(each[1], [-1])
    together = follow(SGDW(1.0, 0.0, 0.0, global_clipnorm=1.0), start, gradients)[0]
    np.testing.assert_allclose(together[0], [0, -0.8], rtol=1e-6)
    np.testing.assert_allclose(together[1], [-0.6], rtol=1e-6)
    short = follow(SGDW(1.0, 0.0, 0.0, clipnorm=8.0), start, gradients)[0]
    np.testing.assert_array_equal(short[0], [0, -4])


def radam_in_numpy(theta, gradients, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7, decay=0.0):
    """Liu et al. 2020, algorithm 2, in float64, with the threshold of the authors' code."""
    m = v = 0.0
    path, top = [], 2 / (1 - beta_2) - 1
    for t, g in enumerate(gradients, start=1):
        theta = theta - rate * decay * theta
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        rho = top - 2 * t * beta_2**t / (1 - beta_2**t)
        step = rate * m / (1 - beta_1**t)
        if rho > 5:
            r = np.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
            step = step * r / (np.sqrt(v / (1 - beta_2**t)) + epsilon)
        theta = theta - step
        path.append(theta)
    return path


def test_radam_follows_the_paper():
    (start, _), gradients = gaussians(40)
    path = follow(RAdam(0.01, weight_decay=0.1), [start], [[g[0]] for g in gradients])
    expected = radam_in_numpy(start, [g[0] for g in gradients], 0.01, decay=0.1)
    for t in range(40):
        np.testing.assert_allclose(path[t][0], expected[t], rtol=2e-4, atol=2e-5)


def test_radam_begins_as_momentum_and_rectifies_from_step_six():
    """With one gradient g the corrected mean is g, so that a step is a*g at first; then a*r_t, whatever g is."""
    gradient = 0.5
    values = [8.0] + [float(p[0][0]) for p in follow(RAdam(0.25), [[8.0]], [[[gradient]]] * 6)]
    steps = -np.diff(values)
    np.testing.assert_allclose(steps[:5], 0.25 * gradient, rtol=1e-5)
    top = 1999
    rho = top - 12 * 0.999**6 / (1 - 0.999**6)
    assert rho > 5 > top - 10 * 0.999**5 / (1 - 0.999**5)
    r = np.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
    assert steps[5] == pytest.approx(0.25 * r, rel=1e-3)


def test_radam_becomes_adam():
    """The rectification ends at 1: with beta_2 = 0.9 it is there after a hundred steps, and the steps are Adam's."""
    start, gradients = gaussians(150, ((4,),))
    ours = [p[0] for p in follow(RAdam(0.01, beta_2=0.9), start, gradients)]
    adam = [p[0] for p in follow(keras.optimizers.Adam(0.01, beta_2=0.9), start, gradients)]
    np.testing.assert_allclose(np.diff(ours, axis=0)[120:], np.diff(adam, axis=0)[120:], rtol=1e-2, atol=1e-5)
    assert not np.allclose(np.diff(ours, axis=0)[:9], np.diff(adam, axis=0)[:9], rtol=0.1, atol=1e-5)


def test_cosine_with_restarts_by_hand():
    recipe = Recipe("r", frozen=True, learning_rate=0.5, weight_decay=0, epochs=1, schedule="restarts", t_mul=2.0)
    schedule = make_schedule(replace(recipe, first_decay_steps=4, alpha=0.5, m_mul=0.5), total=7)
    # Periods of 4 and 8 steps. The rate falls from 0.5 to its half; from the restart on its upper half is halved.
    first, second = ((1 + np.cos(np.pi * np.arange(n) / n)) / 2 for n in (4, 8))
    expected = [*(0.25 + 0.25 * first), *(0.25 + 0.125 * second)]
    np.testing.assert_allclose([float(schedule(t)) for t in range(12)], expected, rtol=1e-5)
    assert float(make_schedule(recipe, total=7)(0)) == 0.5


def test_the_thesis_never_restarts_on_a_small_set():
    """1644 mammograms in batches of 16 for 300 epochs: under a third of the first period."""
    schedule = make_schedule(RECIPES["thesis"], total=1)
    assert float(schedule(300 * (1644 // 16))) / 1e-3 > 0.75
    assert float(schedule(99_999)) < 1e-8
    assert float(schedule(100_001)) == pytest.approx(1e-3, rel=1e-4)
    fitted = make_schedule(RECIPES["thesis_corrected"], total=1000)
    assert float(fitted(1000)) < 1e-9
    assert float(fitted(50)) == pytest.approx(1e-3)


def test_constant_and_warmup():
    recipe = Recipe("r", frozen=True, learning_rate=0.25, weight_decay=0, epochs=1, schedule="constant")
    assert [float(make_schedule(recipe, 10)(t)) for t in (0, 5, 1000)] == [0.25] * 3
    assert Constant.from_config(Constant(0.5).get_config())(3) == 0.5
    cosine = make_schedule(RECIPES["modern"], total=100)
    np.testing.assert_allclose([float(cosine(t)) for t in (0, 5, 100)], [1e-6, 1e-3, 0], atol=1e-9)


def test_a_step_of_the_thesis_is_shorter_than_its_decay():
    """The clip bounds the step's length by rate * clip / (1 - momentum) = 1e-5; the decay takes 1e-4 of the norm."""
    recipe = RECIPES["thesis"]
    optimizer = make_optimizer(recipe, recipe.learning_rate)
    rng = np.random.default_rng(0)
    kernel = keras.Variable(rng.uniform(-1, 1, (768, 256)).astype(np.float32) * np.sqrt(6 / 1024))
    optimizer.build([kernel])
    gradient = tf.constant(rng.normal(0, 1, kernel.shape), tf.float32)
    for _ in range(200):  # the same direction each time, until momentum is at its limit
        before = kernel.numpy().astype(np.float64)
        optimizer.apply([gradient], [kernel])
    norm = np.linalg.norm(before)
    decay = 1e-4 * before
    step = kernel.numpy() - (before - decay)
    assert norm == pytest.approx(19.6 * np.exp(-0.02), rel=0.01)
    assert np.linalg.norm(decay) == pytest.approx(1.9e-3, rel=0.02)
    assert np.linalg.norm(step) == pytest.approx(1e-5, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, AdamW),
        ({"decay_by_rate": False}, AdamW),
        ({"optimizer": "sgdw", "momentum": 0.5}, SGDW),
        ({"optimizer": "radam"}, RAdam),
        ({"optimizer": "adam", "weight_decay": 0.0}, keras.optimizers.Adam),
        ({"optimizer": "adamax", "weight_decay": 0.0}, keras.optimizers.Adamax),
    ],
)
def test_recipes_choose_their_optimizer(changes, kind):
    fields = {"name": "r", "frozen": True, "learning_rate": 0.5, "weight_decay": 0.25, "epochs": 1} | changes
    optimizer = make_optimizer(Recipe(**fields, clip=2.0, clip_by="variable"), 0.5)
    assert type(optimizer) is kind
    assert (optimizer.clipnorm, optimizer.global_clipnorm) == (2.0, None)
    assert make_optimizer(Recipe(**fields, clip=0.0), 0.5).global_clipnorm is None
    again = kind.from_config(optimizer.get_config())
    start, gradients = gaussians(3)
    for a, b in zip(follow(optimizer, start, gradients)[-1], follow(again, start, gradients)[-1], strict=True):
        np.testing.assert_array_equal(a, b)
