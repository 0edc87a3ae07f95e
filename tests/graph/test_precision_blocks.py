"""TensorFlow's switch of TF32: off where a method needs float32, and put back."""

import threading
from dataclasses import replace

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.backend import tf
from xaiutils.graph.precision import PRECISIONS, computing_in

enabled = tf.config.experimental.tensor_float_32_execution_enabled


@pytest.fixture(params=[True, False])
def before(request):
    was = enabled()
    tf.config.experimental.enable_tensor_float_32_execution(request.param)
    yield request.param
    tf.config.experimental.enable_tensor_float_32_execution(was)


def test_only_float32_switches_it_off_and_puts_it_back(before):
    for precision in ("half", "tf32"):
        with computing_in(precision):
            assert enabled() == before
    with pytest.raises(ZeroDivisionError), computing_in("float32"):
        with computing_in("tf32"), computing_in("float32"):
            assert not enabled()
        assert not enabled()
        1 / 0  # noqa: B018
    assert enabled() == before


def test_the_last_of_several_threads_puts_it_back(before):
    opened, go = threading.Event(), threading.Event()

    def other():
        with computing_in("float32"):
            opened.set()
            go.wait()

    thread = threading.Thread(target=other)
    with computing_in("float32"):
        thread.start()
        opened.wait()
    assert not enabled()  # the other one is within still
    go.set()
    thread.join()
    assert enabled() == before


def test_a_method_computes_in_what_it_declares(before):
    needs = {name: method.own_precision for name, method in xai.METHODS.items()}
    assert set(needs.values()) == set(PRECISIONS)
    exact = {name for name, precision in needs.items() if precision == "float32"}
    assert exact == {
        "full_grad", "guided_backprop", "guided_grad_cam", "deconvolution", "deep_lift", "lrp", "clrp", "crp", "sglrp",
        "relevance_cam", "xrelevance_cam", "transformer_attribution",
    }  # fmt: skip

    def look(*_, **__):
        seen.append(enabled())
        return np.zeros(0)

    for name in ("deep_lift", "integrated_gradients"):
        seen: list[bool] = []
        replace(xai.METHODS[name], compute=look).maps(None, None, None, 1)
        assert seen == [before and name != "deep_lift"]
    assert enabled() == before
