"""Class, probability and map in one call."""

import numpy as np
import pytest
from small_models import PIXELS, classifier

import xaiutils as xai
from xaiutils.attribution import ModelError


def test_class_probability_and_map_of_one_call():
    names = ["a", "b", "c"]
    model = xai.wrap(classifier(), class_names=names, scaling="0-1")
    p = xai.predict(model, PIXELS, probabilities=True)
    classes, probabilities, maps = xai.predict_and_explain(model, PIXELS, method="hirescam", reading="positive")
    assert classes == [names[i] for i in p.argmax(axis=1)]
    np.testing.assert_array_equal(probabilities, p.max(axis=1))
    np.testing.assert_array_equal(maps, xai.explain(model, PIXELS, method="hirescam", reading="positive"))

    one = xai.predict_and_explain(model, PIXELS[1], targets="c")  # a single image
    assert one.classes == ["c"]
    assert one.maps.shape == (1, 16, 16)
    np.testing.assert_allclose(one.probabilities, p[1:2, 2], rtol=1e-6)

    bare = classifier(units=1, last="sigmoid")
    assert xai.predict_and_explain(bare, PIXELS, [0, 1, 1]).classes == ["class 0", "class 1", "class 1"]
    assert xai.predict_and_explain(bare, PIXELS, 1, class_names=("no", "yes")).classes == ["yes"] * 3
    other = xai.predict_and_explain(model, PIXELS, ["a", "b", "b"], class_names=("b", "a", "c"))
    assert other.classes == ["a", "b", "b"], "asked and named by the names that were given"
    np.testing.assert_allclose(other.probabilities, p[[0, 1, 2], [1, 0, 0]], rtol=1e-6)


def test_what_has_no_class_is_refused():
    with pytest.raises(ValueError, match="class_names has 2 names; the model has 3 classes"):
        xai.predict_and_explain(classifier(), PIXELS, class_names=("a", "b"))
    with pytest.raises(ValueError, match="'d' is none of class_names"):
        xai.predict_and_explain(classifier(), PIXELS, "d", class_names=("a", "b", "c"))
    with pytest.raises(TypeError, match="whose score has no probability"):
        xai.predict_and_explain(classifier(), PIXELS, lambda z: z[:, 0] - z[:, 1])
    with pytest.raises(ModelError, match="no probabilit"):
        xai.predict_and_explain(xai.wrap(classifier(units=1, last=None), head="regression", scaling="0-1"), PIXELS)
