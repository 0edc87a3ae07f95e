"""Controls made from declarations."""

import ipywidgets
import numpy as np
import pytest

import xaiutils as xai
from xaiutils.registry import Parameter
from xaiutils.widgets import (
    control,
    read_control,
    write_control,
)


def test_fine_sliders_show_their_value():
    sigma = control(next(p for p in xai.TRANSFORMS["blur"].parameters if p.name == "sigma"))
    assert format(sigma.step, sigma.readout_format) == "0.001"


@pytest.mark.parametrize("name", [*xai.METHODS, *xai.TRANSFORMS])
def test_every_parameter_has_a_control(name):
    for p in {**xai.METHODS, **xai.TRANSFORMS}[name].parameters:
        if p.kind is np.ndarray:
            continue
        made = control(p)
        assert read_control(p, made) == p.default
        assert made.tooltip == p.help
        assert isinstance(made, ipywidgets.Dropdown) == (bool(p.choices) and p.kind is str)


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        (Parameter("layers", list, [], "some"), ["conv1", "conv2"], "[conv1, conv2]"),
        (Parameter("base_parameters", dict, {}, "some"), {"n_steps": 5, "baseline": "blur"}, None),
        (Parameter("factor", float, 1.0, "of any size"), 2.5, 2.5),
        (Parameter("alpha", float, 1.0, "of a wide range", 1e-6, 1e6), 1e-3, 1e-3),
    ],
)
def test_lists_and_mappings_are_typed_as_yaml(declared, value, text):
    made = control(declared)
    write_control(declared, made, value)
    assert text is None or made.value == text
    assert declared.check(read_control(declared, made)) == value
