"""Callbacks: the protocol, maps while a model trains, and the live curve."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_recipes import PLAIN, colours, tiny

import xaiutils as xai
from xaiutils.backend import tf
from xaiutils.classification.model_card import kept_epoch
from xaiutils.datasets import ImageDataset
from xaiutils.plots import training_curves
from xaiutils.training import Callback, StopTraining
from xaiutils.workbook.training_callbacks import AttributionCallback, LiveCurve


class Recorder(Callback):
    """Notes the logits at each epoch, and stops after ``last``."""

    def __init__(self, images, last=99):
        self.images, self.last, self.logits, self.history = images, last, [], None

    def on_epoch_end(self, epoch, model, row):
        self.logits.append(xai.predict(model, self.images))
        row["largest"] = float(self.logits[-1].max())
        if epoch == self.last:
            raise StopTraining("enough")

    def on_train_end(self, history):
        self.history = history


@pytest.mark.parametrize("frozen", [True, False])
def test_a_callback_sees_each_epoch_and_may_stop(frozen, tmp_path):
    train, val = colours(24, 0), colours(8, 1)
    recorder = Recorder(val.images, last=3)
    model = tiny()
    history = xai.train(
        model, train, val, PLAIN, run_dir=tmp_path, frozen=frozen, epochs=6, callbacks=[recorder], monitor="val_loss"
    )
    assert len(history) == len(recorder.logits) == 3
    assert history.attrs["stopped"] == "enough"
    assert recorder.history is history
    assert history["largest"].tolist() == [float(found.max()) for found in recorder.logits]
    for found, loss in zip(recorder.logits, history["val_loss"], strict=True):  # the weights of that very epoch
        own = found[np.arange(8), val.labels] - np.log(np.exp(found).sum(axis=1))
        assert -own.mean() == pytest.approx(loss, rel=1e-4)
    kept = recorder.logits[history.attrs["kept_epoch"] - 1]
    np.testing.assert_allclose(xai.predict(model, val.images), kept, atol=1e-5)
    written = pd.read_csv(tmp_path / "history.csv")
    assert written["kept"].tolist() == history["kept"].tolist()
    assert "largest" in written


def with_masks(n, seed):
    """`colours` with the left half as evidence; the last image has none."""
    ds = colours(n, seed)
    masks = np.zeros((n, 16, 16), bool)
    masks[:-1, :, :8] = True
    return ImageDataset(ds.pixels, ds.labels, ds.class_names, ds.ids, masks)


def test_maps_are_drawn_measured_and_logged(tmp_path):
    few = with_masks(3, 2)
    callback = AttributionCallback(few, tmp_path, ["gradients_x_inputs", "vanilla_gradients"], every=2)
    model = tiny()
    history = xai.train(model, colours(16, 0), colours(8, 1), PLAIN, frozen=True, epochs=3, callbacks=[callback])
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["maps_epoch_0001.png", "maps_epoch_0003.png"]
    outside = history["outside_gradients_x_inputs"]
    assert outside.isna().tolist() == [False, True, False]
    if history.attrs["kept_epoch"] == 3:
        maps = np.abs(xai.explain(model, few.images, few.labels, "gradients_x_inputs"))[:2]
        parts = maps[:, :, 8:].sum(axis=(1, 2)) / maps.sum(axis=(1, 2))
        assert outside[2] == pytest.approx(parts.mean(), rel=1e-4)
    (log,) = (tmp_path / "tensorboard").iterdir()
    events = [tf.compat.v1.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(log))]
    found = {(value.tag, event.step): value for event in events for value in event.summary.value}
    assert {("maps", 1), ("maps", 3), ("val_loss", 1), ("outside_vanilla_gradients", 3)} <= set(found)
    picture = tf.io.decode_png(found["maps", 3].tensor.string_val[2]).numpy()
    assert picture.std() > 10


def test_maps_that_lie_elsewhere_end_the_run(tmp_path):
    few = with_masks(2, 2)
    masks = np.zeros((2, 16, 16), bool)
    masks[:, 0, 0] = True
    callback = AttributionCallback(few, tmp_path, ["vanilla_gradients"], masks=masks, stop_outside=0.5, patience=2)
    history = xai.train(tiny(), colours(16, 0), colours(8, 1), PLAIN, callbacks=[callback])
    assert len(history) == 2
    assert "outside the evidence in epoch 2" in history.attrs["stopped"]
    assert (history["outside_vanilla_gradients"] > 0.5).all()


def test_bad_arguments(tmp_path):
    few = with_masks(2, 0)
    with pytest.raises(ValueError, match="every=0"):
        AttributionCallback(few, tmp_path, every=0)
    with pytest.raises(ValueError, match="stop_outside=0.5 needs masks"):
        AttributionCallback(colours(2, 0), tmp_path, stop_outside=0.5)
    with pytest.raises(ValueError, match="masks has shape"):
        AttributionCallback(few, tmp_path, masks=np.ones((1, 16, 16)))
    with pytest.raises(KeyError, match="grad_cam"):
        AttributionCallback(few, tmp_path, ["grad_kam"])
    with pytest.raises(ValueError, match="at least one entry"):
        AttributionCallback(few.take(0), tmp_path)


class Shown:
    """Stands for IPython's display: notes what is shown and updated."""

    def __init__(self):
        self.pictures = []

    def __call__(self, picture, display_id):
        assert display_id
        self.pictures.append(picture)
        return self

    def update(self, picture):
        self.pictures.append(picture)


def test_the_live_curve(monkeypatch):
    shown = Shown()
    monkeypatch.setattr("IPython.display.display", shown)
    run = {"recipe": PLAIN, "epochs": 2}
    xai.train(tiny(), colours(16, 0), colours(8, 1), **run, callbacks=[LiveCurve()])
    assert not shown.pictures  # conftest sets XAI_PROGRESS=off
    monkeypatch.delenv("XAI_PROGRESS")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    drawn = []
    monkeypatch.setattr(
        "xaiutils.workbook.training_callbacks.training_curves",
        lambda h: drawn.append(kept_epoch(h["tiny"])) or training_curves(h),
    )
    history = xai.train(tiny(), colours(16, 0), colours(8, 1), **run, callbacks=[LiveCurve("tiny", seconds=0)])
    assert len(shown.pictures) == 3  # two epochs and the end
    assert drawn == [0, 0, history.attrs["kept_epoch"]]  # what is kept is marked at the end
    assert all(p._repr_mimebundle_() for p in shown.pictures)
    monkeypatch.setenv("CI", "1")
    LiveCurve().on_train_end(pd.DataFrame())
    assert len(shown.pictures) == 3


_MIRRORED = """
import sys
import numpy as np
from xaiutils.backend import tf, keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path[:0] = ["tests", "tests/training", "tests/workbook"]
import xaiutils as xai
from dataclasses import replace
from test_callbacks import Recorder
from test_recipes import PLAIN, colours, tiny

train, val = colours(46, 0, spread=214), colours(8, 1)
# Clipped, by all variables together, and with batches that two do not divide: 23.
recipe = replace(PLAIN, freeze_norm=True, batch_size=23, clip=0.01, optimizer="sgdw", learning_rate=1.0)
found = {}
for devices in ("auto", "all", ["CPU:1"]):
    model, recorder = tiny(), Recorder(val.images)
    history = xai.train(model, train, val, recipe, devices=devices, callbacks=[recorder])
    found[str(devices)] = [*model.get_weights(), history["loss"], history["val_loss"], recorder.logits]
for name in ("all", "['CPU:1']"):
    for a, b in zip(found["auto"], found[name], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
moved = np.abs(found["auto"][-5] - tiny().get_weights()[-1]).max()
assert moved > 1e-3, moved
# What differs by design still runs: batch norm that trains, dropout, mixup, Adam, and a loss that is scaled.
free = replace(PLAIN, batch_size=8, epochs=2, dropout=0.2, mixup=0.2)
history = xai.train(tiny(), train, val, free, devices="all", precision="mixed_float16")
assert np.isfinite(history["loss"]).all()
# A frozen stage computes on the first device that is named.
from xaiutils.training import loop

seen, real = [], loop.compiled
def spy(*args):
    step, forward = real(*args)
    return lambda *a: [seen.append(v.device) or v for v in step(*a)], forward
loop.compiled = spy
xai.train(tiny(), train, val, replace(PLAIN, frozen=True, epochs=1), devices=["CPU:1", "CPU:0"])
assert seen and all(name.endswith("CPU:1") for name in seen), seen
for changes, said in (({"devices": "GPU:7"}, "no 'GPU:7'"), ({"devices": "all", "batch_size": 1}, "2 of them cannot")):
    try:
        xai.train(tiny(), train, val, recipe, **changes)
    except ValueError as error:
        assert said in str(error), error
    else:
        raise AssertionError(said)
print("equal")
"""


def test_two_devices_take_the_steps_of_one():
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", _MIRRORED], capture_output=True, text=True, cwd=root)
    assert result.stdout.strip().endswith("equal"), result.stdout + result.stderr
