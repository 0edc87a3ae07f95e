"""How many images a pass takes, and what happens where they are too many."""

import importlib

import numpy as np
import pytest
from conftest import make_flat

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.backend import tf
from xaiutils.graph import memory
from xaiutils.graph.memory import chosen_batch_size, fitting, free_memory, pass_bytes


@pytest.fixture
def network():
    return Network.of(make_flat())


def test_auto_follows_the_free_memory(network, monkeypatch):
    one = pass_bytes(network)
    assert one > 4 * 32 * 32 * 3
    for free, expected in ((0, 1), (2 * one, 1), (11 * one, 4), (10**15, 32)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        assert chosen_batch_size(network, "auto") == expected
    assert chosen_batch_size(network, 500) == 500
    for wrong in (0, "all", 1.5):
        with pytest.raises(ValueError, match="batch_size="):
            chosen_batch_size(network, wrong)


def test_free_memory_is_less_than_the_machine_has():
    assert 1e6 < free_memory("CPU") < 1e15


def test_out_of_memory_halves_and_says_what_fits(network):
    tried = []

    def compute(size):
        tried.append(size)
        if size > 5:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return size

    with pytest.warns(UserWarning, match="ran out at batch_size=32; batch_size=4 fits"):
        assert fitting(network, 32, compute) == 4
    assert tried == [32, 16, 8, 4]
    assert chosen_batch_size(network, "auto") == 4  # remembered
    with pytest.raises(MemoryError, match="one image"):
        fitting(network, 2, lambda size: compute(6))


def test_maps_after_out_of_memory_are_the_same(images, monkeypatch):
    model = make_flat()
    expected = xai.explain(model, images, 1, "smoothgrad", n_samples=3)
    declared = xai.METHODS["smoothgrad"]

    def short(network, images, targets, batch_size, **parameters):
        if batch_size > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return declared.compute(network, images, targets, batch_size, **parameters)

    monkeypatch.setattr(xai.METHODS["smoothgrad"].__class__, "maps", lambda self, *a, **k: short(*a, **k))
    checked = []  # completeness too is looked at by passes of the size that fits
    calls = importlib.import_module("xaiutils.attribution.explain")
    monkeypatch.setattr(calls, "warn_if_incomplete", lambda *given: checked.append(given[4]))
    with pytest.warns(UserWarning, match="batch_size=2 fits"):
        found = xai.explain(model, images, 1, "smoothgrad", n_samples=3, batch_size=8)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    assert checked == [2]


def test_other_calls_refuse_auto_by_name(images):
    with pytest.raises(ValueError, match="batch_size='auto'"):
        xai.attribution.prepare(make_flat(), images, 1, "auto")
