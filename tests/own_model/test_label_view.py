"""One label of a multi-label model as a binary model."""

import numpy as np
import pytest
from small_models import PIXELS, classifier

import xaiutils as xai
from xaiutils.own_model.label_view import of_label

NAMES = ["mass", "marker", "calcification"]


@pytest.mark.parametrize("last", ["sigmoid", None])
def test_the_view_of_a_label_is_its_unit(last):
    mine = classifier(units=3, last=last)
    wrapped = xai.wrap(mine, scaling="0-1", class_names=NAMES, head=None if last else "sigmoid")
    view = of_label(wrapped, "marker")
    assert view.facts.class_names == ("no marker", "marker")
    assert view.facts.positive_class == "marker"
    np.testing.assert_allclose(xai.predict(view, PIXELS)[:, 1], xai.predict(wrapped, PIXELS)[:, 1], atol=1e-5)
    for method in ("grad_cam", "integrated_gradients", "lrp"):
        np.testing.assert_allclose(
            xai.explain(view, PIXELS, 1, method), xai.explain(wrapped, PIXELS, 1, method), atol=1e-5
        )


def test_views_of_sure_models_keep_their_logits():
    """Probabilities of 1 - 1e-20 are 1 in float32, and have no gradient."""
    mine = classifier(units=3, last="sigmoid")
    mine.get_layer("classes").bias.assign([50.0, 60.0, -70.0])
    wrapped = xai.wrap(mine, scaling="0-1")
    for index in range(3):
        view = of_label(wrapped, index)
        np.testing.assert_allclose(xai.predict(view, PIXELS)[:, 1], xai.predict(wrapped, PIXELS)[:, index], rtol=1e-5)
    assert view.facts.class_names == ("no label 2", "label 2")


def test_what_has_no_labels_is_refused():
    with pytest.raises(ValueError, match="one softmax output"):
        of_label(classifier(), 1)
    wrapped = xai.wrap(classifier(last="sigmoid"), class_names=NAMES)
    with pytest.raises(ValueError, match="no label 'mas'; did you mean mass"):
        of_label(wrapped, "mas")
    with pytest.raises(ValueError, match="index from 0 to 2"):
        of_label(wrapped, 3)


def test_the_two_classes_of_a_view_can_be_named():
    wrapped = xai.wrap(classifier(last="sigmoid"), scaling="0-1", class_names=NAMES)
    named = xai.wrap(of_label(wrapped, 1), class_names=["without", "with"])
    assert (named.facts.class_names, named.facts.positive_class) == (("without", "with"), "with")
    scaled = xai.wrap(named, scaling="-1-1", positive_class="without")
    assert (scaled.facts.class_names, scaled.facts.scaling) == (("without", "with"), "-1-1")
    assert scaled.facts.positive_class == "without"
    with pytest.raises(ValueError, match="class_names has 3 names; the view of one label has two classes"):
        xai.wrap(named, class_names=NAMES)
    with pytest.raises(ValueError, match="positive_class='nor' is not one of the classes"):
        xai.wrap(named, positive_class="nor")
