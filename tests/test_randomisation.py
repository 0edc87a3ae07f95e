"""Random weights: what they do to maps, and that the model comes out of it as it was."""

import numpy as np
import pytest
from conftest import make_flat, make_vit

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.evaluation.randomisation import random_weights, randomisation_test, stages


@pytest.mark.parametrize("make", [make_flat, make_vit])
def test_stages_go_from_the_logits_down_and_miss_nothing(make):
    model = make()
    for n in (2, 3, 100):
        groups = stages(model, n, norms=True)
        assert len(groups) <= n
        found = [layer for group in groups.values() for layer in group]
        assert found[0].name in ("classes", "logits")
        assert set(found) == {layer for layer in model.layers if layer.weights}
        assert len(found) == len(set(found))
    assert not any("norm" in layer.name for group in stages(model).values() for layer in group)
    with pytest.raises(ValueError, match="at least 2"):
        stages(model, 1)


def test_weights_are_drawn_and_come_back():
    model = xai.build_model("mobilenet_v2", 2, 32, None)
    keras.utils.set_random_seed(0)
    before = [v.numpy() for v in model.variables]
    layers = [layer for layer in model.layers if layer.weights]
    with pytest.raises(RuntimeError, match="in the middle"), random_weights(layers, 0):
        drawn = [v.numpy() for v in model.variables]
        kernels = [i for i, v in enumerate(model.variables) if v.name == "kernel"]
        assert all(not np.allclose(before[i], drawn[i]) for i in kernels)
        # By the layers' own initialisers: of the same spread as weights that were never trained.
        ratios = [drawn[i].std() / before[i].std() for i in kernels if before[i].size > 1000]
        assert np.median(ratios) == pytest.approx(1, abs=0.1)
        assert all((v.numpy() >= 0).all() for v in model.variables if v.name == "moving_variance")
        raise RuntimeError("in the middle")
    for was, now in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(was, now.numpy())
    with random_weights(layers, 0):
        again = [v.numpy() for v in model.variables]
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_maps_change_with_the_weights_and_edges_would_not(images, mode):
    model = make_flat()
    before = xai.explain(model, images, 0, "vanilla_gradients")
    ids = [f"i{k}" for k in range(5)]
    methods = ["vanilla_gradients", "coarse"]
    parameters = {"coarse": {"method": "occlusion", "patch_size": 16}}
    table = randomisation_test(model, images, ids, methods, 0, mode, n_stages=3, parameters=parameters, seed=1)
    assert table["stage"].unique().tolist() == ["none", "classes", "conv2", "conv1"]
    assert set(table["method"]) == set(methods)
    means = table.groupby(["depth", "similarity"])["value"].mean().unstack()
    np.testing.assert_allclose(means.loc[0], 1)
    assert (means.loc[1:] < 0.95).all().all()
    assert table.groupby("depth")["p"].first().nunique() == 4
    np.testing.assert_array_equal(xai.explain(model, images, 0, "vanilla_gradients"), before)
    with pytest.raises(ValueError, match="did you mean cascading"):
        randomisation_test(model, images, ids, methods, 0, "cascade")
    with pytest.raises(KeyError, match="Unknown method"):
        randomisation_test(model, images, ids, ["gradcam"])
