"""The generated catalogue of methods: current with METHODS, complete, and its figures small."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import xaiutils as xai
from xaiutils.registry import check_parameters

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("method_catalogue", ROOT / "tools" / "method_catalogue.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(tool):
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert text == tool.page(), "run python tools/method_catalogue.py"


@pytest.mark.parametrize("name", [*xai.METHODS, "images"])
def test_every_method_has_a_small_figure(tool, name):
    path = ROOT / "docs" / "methods" / f"{name}.png"
    assert path.is_file(), f"run python tools/method_catalogue.py --figures {name}"
    assert path.stat().st_size <= tool.LARGEST
    with Image.open(path) as image:
        assert image.size == (416, 192)
        assert len(np.unique(np.asarray(image.convert("L")))) > 10  # not blank


def test_nothing_is_left_of_methods_that_are_gone(tool):
    pictures = {path.stem for path in (ROOT / "docs" / "methods").glob("*")}
    assert pictures == {*xai.METHODS, "images", "balanced"}
    assert (ROOT / "docs" / "methods" / "balanced.png").stat().st_size <= tool.LARGEST
    assert set(tool.PITFALLS) == set(xai.METHODS)
    for name, parameters in tool.FIGURE_PARAMETERS.items():
        check_parameters(name, xai.METHODS[name].parameters, parameters)


def test_an_entry_says_what_is_declared(tool):
    for name, method in xai.METHODS.items():
        entry = tool._entry(method)
        for parameter in method.parameters:
            assert f"| `{parameter.name}` |" in entry, name
        for library in method.libraries[1:]:
            assert f"**In {library}** " in entry, name
        if "arXiv:" in method.paper:
            assert "](https://arxiv.org/abs/" in entry, name
        assert "``" not in entry, name
        assert "Args:" not in entry, name


def test_a_method_without_a_docstring_is_refused(tool):
    undocumented = dataclasses.replace(xai.METHODS["grad_cam"], compute=lambda *a, **k: None)
    with pytest.raises(ValueError, match="'grad_cam' has no docstring"):
        tool.page({"grad_cam": undocumented})


def test_signs_that_would_be_markup_are_escaped(tool):
    assert tool._text("a*b, |x| < [0, 1], ``f(*args)``") == r"a\*b, \|x\| \< \[0, 1\], `f(*args)`"
    assert (
        tool._links("see arXiv:1610.02391, eq. 1") == "see [arXiv:1610.02391](https://arxiv.org/abs/1610.02391), eq. 1"
    )
    assert tool._links("(doi:10.1371/journal.pone.0130140)") == (
        "([doi:10.1371/journal.pone.0130140](https://doi.org/10.1371/journal.pone.0130140))"
    )
    assert tool._sentence("none; our resize") == "As published; our resize."
    assert tool._sentence("squares them") == "Not as published: squares them."


def test_check_says_whether_the_page_is_current(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "PAGE", tmp_path / "methods.md")
    assert tool.main(["--check"]) == 1
    assert "not current" in capsys.readouterr().out
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    tool.PAGE.write_text(tool.page() + "more", encoding="utf-8")
    assert tool.main(["--check"]) == 1


def test_figures_are_made_to_fit(tool, tmp_path):
    figure = Figure(figsize=(5.2, 2.4), dpi=80)
    noise = np.random.default_rng(0).uniform(size=(192, 416, 3))
    figure.add_axes((0, 0, 1, 1)).imshow(noise)
    tool.save(figure, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size <= tool.LARGEST
