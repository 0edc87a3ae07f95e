"""The recipe for a new method, followed to the letter: one module, one declaration, one line in the list."""

import importlib.util

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.attribution.methods import METHODS
from xaiutils.batch.matrix import read_matrix
from xaiutils.widgets.map_controls import MapControls, MapOffers
from xaiutils.widgets.parameter_controls import Quiet

MODULE = '''
"""Brightness: how far each pixel is above black, times a gain; the same for every class."""

import numpy as np

from xaiutils.attribution.method import Method
from xaiutils.graph.network import Network
from xaiutils.registry import Parameter


def brightness(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, gain: float
) -> np.ndarray:
    """gain * mean over channels of x (Nobody 2026, arXiv:2601.00001)."""
    return gain * images.mean(axis=-1)


BRIGHTNESS = Method(
    name="brightness",
    title="Brightness",
    family="gradients",
    paper="Nobody 2026, arXiv:2601.00001",
    signed=False,
    cost="nothing",
    compute=brightness,
    parameters=(Parameter("gain", float, 2.0, "what brightness is multiplied by", 0.0, 10.0),),
    suits=("cnn",),
)
'''


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def brightness(tmp_path):
    """The method, listed while the test runs."""
    (tmp_path / "brightness.py").write_text(MODULE, encoding="utf-8")
    METHODS.add(load("brightness", tmp_path / "brightness.py").BRIGHTNESS)
    yield METHODS["brightness"]
    METHODS.remove("brightness")
    assert "brightness" not in xai.METHODS


def test_explain_and_explain_all_know_it(brightness, models, images):
    model, expected = models["flat softmax"], images.mean(axis=-1)
    np.testing.assert_allclose(xai.explain(model, images, 1, "brightness"), 2 * expected, rtol=1e-6)
    given = {"dim": {"method": "brightness", "gain": 0.5}}
    np.testing.assert_allclose(
        xai.explain_all(model, images, 1, ["dim"], parameters=given)["dim"], expected / 2, rtol=1e-6
    )
    with pytest.raises(ValueError, match="gain=11"):
        xai.explain(model, images, 1, "brightness", gain=11)
    smooth = xai.explain(model, images, 1, "smoothgrad", base="brightness", noise=0.0, n_samples=2)
    np.testing.assert_allclose(smooth, 2 * expected, rtol=1e-6)  # methods that build on others find it too


def test_the_panel_offers_it_with_its_controls(brightness):
    offers = MapOffers(lambda: None, lambda handler: handler, Quiet(), {}, [], lambda _: ["a", "b"], lambda: None)
    controls = MapControls(1, offers)
    assert "brightness" in {entry["name"] for entry in controls.method.methods}
    controls.method.value = "brightness"
    assert list(controls.parameters.controls) == ["gain"]
    assert controls.choice.parameters == {"gain": 2.0}
    assert (controls.parameters.controls["gain"].min, controls.parameters.controls["gain"].max) == (0.0, 10.0)


def test_the_catalogue_has_its_entry(brightness, request):
    page = load("method_catalogue", request.config.rootpath / "tools" / "method_catalogue.py").page()
    entry = page.split('<a id="brightness"></a>')[1].split("<a id=")[0]
    for said in ("mean over channels", "| `gain` |", "convolutional networks", "arxiv.org/abs/2601.00001"):
        assert said in entry


def test_a_matrix_takes_it_and_checks_its_parameters(brightness, tmp_path):
    text = "name: recipe\ndatasets: [phantom]\nmodels: [{model}]\nmethods: [{{name: brightness, gain: {gain}}}]\n"
    path = tmp_path / "matrix.yml"
    path.write_text(text.format(model="efficientnet_lite0", gain=3), encoding="utf-8")
    matrix, problems = read_matrix(path)
    assert problems == []
    assert [(entry.name, entry.parameters) for entry in matrix.methods] == [("brightness", {"gain": 3})]
    path.write_text(text.format(model="vit_mini16", gain=30), encoding="utf-8")
    _, problems = read_matrix(path)
    assert any("gain" in problem for problem in problems)
    assert any("brightness cannot explain vit_mini16" in problem for problem in problems)
