"""Declarations: what they accept, and what their errors say."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaiutils.registry import Parameter, Registry, UnknownNameError, check_integer, check_parameters

NOISE = Parameter("noise", float, 0.1, "sigma", 0.0, 1.0)
STEPS = Parameter("n_steps", int, 20, "steps", 1, 100)
FILL = Parameter("fill", str, "grey", "fill", choices=("grey", "black"))


@given(st.floats(0, 1))
def test_numbers_in_range_pass(value):
    assert NOISE.check(value) == value


@given(st.one_of(st.floats().filter(lambda x: not 0 <= x <= 1), st.text(), st.booleans(), st.none()))
def test_everything_else_is_refused(value):
    with pytest.raises((TypeError, ValueError), match="noise"):
        NOISE.check(value)


def test_types():
    assert NOISE.check(1) == 1.0
    assert isinstance(NOISE.check(1), float)
    for wrong in (2.0, True, "3", math.nan):
        with pytest.raises(TypeError, match="an integer from 1 to 100"):
            STEPS.check(wrong)
    with pytest.raises(ValueError, match="did you mean grey"):
        FILL.check("gray")


def test_arrays():
    background = Parameter("background", np.ndarray, None, "images")
    assert background.check(None) is None
    found = background.check([[1, 2], [3, 4]])
    assert found.dtype == np.float32
    assert found.shape == (2, 2)
    with pytest.raises(TypeError, match=r"background is of type str; expected an array \(images\)"):
        background.check("black")
    with pytest.raises(ValueError, match="background has values that are NaN"):
        background.check([math.nan])


def test_check_parameters_overlays_defaults():
    assert check_parameters("it", (NOISE, STEPS), {"n_steps": 3}) == {"noise": 0.1, "n_steps": 3}
    with pytest.raises(TypeError, match=r"it has no parameter 'n_step'; did you mean n_steps"):
        check_parameters("it", (NOISE, STEPS), {"n_step": 3})
    with pytest.raises(TypeError, match="it takes no parameters"):
        check_parameters("it", (), {"x": 1})


def test_registry():
    registry = Registry("fill")
    registry.add(NOISE)
    assert list(registry) == ["noise"]
    assert "noise" in registry
    assert "other" not in registry
    assert registry.get("other") is None
    with pytest.raises(ValueError, match="twice"):
        registry.add(NOISE)
    with pytest.raises(UnknownNameError, match=r"^Unknown fill 'nois'; did you mean noise\?"):
        registry["nois"]
    with pytest.raises(KeyError):
        registry[["unhashable"]]
    with pytest.raises(ValueError, match="twice"):
        Registry("fill", (NOISE, NOISE))
    registry.remove("noise")
    assert not registry
    with pytest.raises(UnknownNameError):
        registry.remove("noise")


@pytest.mark.parametrize("value", [0, 6, True, 2.0, "2", None, np.float32(2)])
def test_an_integer_in_its_range_and_nothing_else(value):
    assert [check_integer("n", 2, 1), check_integer("n", np.int8(5), 1, 5)] == [2, 5]
    assert type(check_integer("n", np.int8(5), 1)) is int
    with pytest.raises(ValueError, match=r"n=.*expected an integer from 1 to 5 \(why\)\.$"):
        check_integer("n", value, 1, 5, " (why)")


# Where each registry is declared, and how many names it has there.
REGISTRIES = {
    "xaiutils.transforms": "TRANSFORMS",
    "xaiutils.attribution.methods": "METHODS",
    "xaiutils.evaluation.metrics": "METRICS",
    "xaiutils.datasets.catalogue": "DATASETS",
    "xaiutils.models": "MODELS",
    "xaiutils.training.recipes": "RECIPES",
}


def test_no_registry_is_completed_by_another_module():
    """Each one is whole where it is declared, in an interpreter that has imported nothing else of the package."""
    import xaiutils as xai

    code = (
        "import os, xaiutils.backend\n"  # TensorFlow once: each registry is then read by a copy of the process
        f"for module, name in {list(REGISTRIES.items())!r}:\n"
        "    if child := os.fork():\n"
        "        assert os.waitpid(child, 0)[1] == 0, module\n"
        "    else:\n"
        "        exec(f'from {module} import {name}')\n"
        "        print(*globals()[name], flush=True)\n"
        "        os._exit(0)"
    )
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    for (module, name), found in zip(REGISTRIES.items(), alone, strict=True):
        assert found.split() == list(getattr(xai, name)), module
    code = "from xaiutils.transforms import TRANSFORMS; import sys; print('tensorflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"  # attacks need it, when they are made
