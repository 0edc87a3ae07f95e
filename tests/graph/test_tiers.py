"""Passes run eagerly or compiled: the same maps, the same refusals, and a tier that depends on the calls alone."""

import gc
import weakref

import numpy as np
import pytest
from conftest import SIZE, make_flat, make_vit

import xaiutils as xai
from xaiutils.attribution import METHODS, ModelError, Network
from xaiutils.backend import keras, tf
from xaiutils.graph import tiers
from xaiutils.graph.passes import batches

SPEC = tf.TensorSpec([None, 2], tf.float32)
FEW = {
    "n_samples": 3,
    "n_steps": 4,
    "n_masks": 6,
    "max_channels": 4,
    "patch_size": 16,
    "n_segments": 4,
}


@pytest.fixture(scope="module")
def networks():
    return {"cnn": make_flat(), "vit": make_vit()}


@pytest.fixture
def counted():
    """A tiered function, the list of its runs (whether each was eager), and its network."""
    runs, network = [], Network.of(make_flat())

    def double(x):
        runs.append(tf.executing_eagerly())
        return 2 * x

    return tiers.tiered(network, double, [SPEC]), runs, network


def rows(n):
    return np.ones((n, 2), np.float32)


def test_a_function_runs_eagerly_up_to_so_many_images_and_is_then_traced_once(counted):
    run, runs, _ = counted
    for n in (3, 5, 1, 2, 40):
        np.testing.assert_array_equal(run(rows(n)), 2 * rows(n))
    assert runs == [True, True, False]


def test_what_is_to_come_counts(counted):
    run, runs, _ = counted
    for batch in batches(tiers.EAGER_ROWS + 1, 4, ""):
        run(rows(batch.stop - batch.start))
    assert runs == [False]


def test_few_in_several_batches_stay_eager_and_a_left_loop_is_forgotten(counted):
    run, runs, _ = counted
    for _ in batches(100, 4, ""):
        break
    for batch in batches(6, 2, ""):
        run(rows(batch.stop - batch.start))
    assert runs == [True] * 3


def test_compiled_first(counted, monkeypatch):
    run, runs, _ = counted
    monkeypatch.setenv("XAI_COMPILE", "first")
    run(rows(1))
    assert runs == [False]
    monkeypatch.setenv("XAI_COMPILE", "never")
    with pytest.raises(ValueError, match="XAI_COMPILE='never'; expected one of auto, first"):
        tiers.mode()


def test_functions_may_be_told_to_run_eagerly(networks, images, monkeypatch):
    """As one does to debug: then a compiled function, too, is given what its caller has, arrays."""
    expected = xai.explain(networks["cnn"], images[:2], 1, "deep_lift")
    monkeypatch.setenv("XAI_COMPILE", "first")
    tf.config.run_functions_eagerly(True)
    try:
        found = xai.explain(networks["cnn"], images[:2], 1, "deep_lift")
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_compiled_in_a_thread_while_somebody_looks(counted):
    run, runs, network = counted
    run(rows(1))
    thread = tiers.compile_used(network)
    run(rows(1))
    thread.join()
    run(rows(1))
    assert runs.count(False) == 1
    assert len(runs) in (2, 3)  # the call in between may have met either tier


def test_a_thread_lets_the_model_go():
    model = make_flat()
    expected = xai.predict(model, np.zeros((1, SIZE, SIZE, 3), np.float32))
    tiers.compile_used(Network.of(model)).join()
    np.testing.assert_allclose(xai.predict(model, np.zeros((1, SIZE, SIZE, 3), np.float32)), expected, rtol=1e-5)
    kept = weakref.ref(model)
    del model
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_both_tiers_give_the_same_maps(networks, images, monkeypatch, name, method):
    declared = METHODS[method]
    given = {p.name: FEW[p.name] for p in declared.parameters if p.name in FEW}
    found = {}
    for mode in ("auto", "first"):
        monkeypatch.setenv("XAI_COMPILE", mode)
        try:
            found[mode] = xai.explain(networks[name], images[:2], [0, 1], method, **given)
        except ModelError as error:
            found[mode] = str(error)
    if isinstance(found["auto"], str):
        assert found["auto"] == found["first"]
        pytest.skip("refused by both")
    size = np.abs(found["first"]).max()
    np.testing.assert_allclose(found["auto"], found["first"], atol=2e-5 * size)


@pytest.mark.parametrize("mode", tiers.MODES)
def test_refusals_are_the_same(monkeypatch, mode):
    monkeypatch.setenv("XAI_COMPILE", mode)
    image = keras.Input((SIZE, SIZE, 3))
    cut = keras.layers.Lambda(lambda x: tf.cast(tf.cast(x, tf.int32), tf.float32))(image)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(cut)))
    with pytest.raises(ModelError, match="cuts the gradient"):
        xai.explain(model, np.full((1, SIZE, SIZE, 3), 9.0), 0, "vanilla_gradients")
