"""What `benchmarks/mammograms_gpu.py` gives a network is what `train` gives it."""

import json

import mammograms
import numpy as np
import pytest
from mammogram_networks import CHOICES
from mammograms_gpu import changed, stages_of

import xaiutils as xai
from xaiutils.training.places import STRIDE, changed_together, grids_of
from xaiutils.training.recipes import RECIPES


def _image() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices((96, 128))
    pixels = (120 + 60 * np.sin(rows / 7) + 60 * np.cos(columns / 11)).astype(np.uint8)
    mask = (rows - 40) ** 2 + (columns - 70) ** 2 < 15**2
    return pixels, mask


def test_copies_are_changed_as_by_the_package() -> None:
    pixels, mask = _image()
    recipe, seeds = RECIPES["where_and_what_images"], [3, 8]
    images, grids = changed(pixels, mask, recipe, 6, seeds)
    repeated = np.repeat(pixels[None, ..., None], 6, axis=0), np.repeat(mask[None], 6, axis=0)
    wanted, masks = changed_together(*repeated, recipe, np.random.default_rng(seeds))
    # OpenCV interpolates at 32nds of a pixel, and grey values are whole.
    assert np.abs(images - wanted[..., 0]).max() < 2
    assert np.abs(images - wanted[..., 0]).mean() < 0.4
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6
    by_package = grids_of(wanted, masks, np.full(6, "known"), (96 // STRIDE, 128 // STRIDE))
    assert (grids == by_package).mean() > 0.98  # a place at the edge of an ellipse may be on either side


def test_stages_are_those_that_train_makes_of_the_same_arguments() -> None:
    crops, whole = stages_of(CHOICES["from the pixels"])
    assert (crops.frozen_lower, whole.frozen_lower) == (False, False)
    assert [stage.copies for stage in stages_of(CHOICES["more copies"])] == [16, 16]
    assert [(stage.name, stage.epochs) for stage in stages_of(CHOICES["no stage of crops"])] == [
        ("where_and_what_images", 8)
    ]
    longer = stages_of(CHOICES["more copies, longer"])
    assert [(stage.epochs, stage.copies, stage.crop) for stage in longer] == [(20, 16, 192), (6, 16, 0)]


@pytest.mark.parametrize(("choice", "layer", "trains"), [("boxes", "sharpness", True), ("mean", "sharpness", False)])
def test_pooling_reaches_the_network(choice: str, layer: str, trains: bool) -> None:
    model = xai.build_model("efficientnet_lite0", 2, 64, **CHOICES[choice].head)
    assert bool(model.get_layer(layer).trainable_weights) is trains
    names = {x.name for x in xai.build_model("efficientnet_lite0", 2, 64, **CHOICES["top k"].head).layers}
    assert "keep_largest" in names


def test_another_network_of_a_name_takes_its_results_along(tmp_path, monkeypatch) -> None:
    name, other = "boxes | official | 0", "boxes | official | 1"
    monkeypatch.setattr(mammograms, "RESULTS", tmp_path / "results.json")
    measured = {name: 1, other: 2, f"{name} + {other}": 3}
    mammograms.RESULTS.write_text(json.dumps({name: {"auc": 0.7}, "test": measured, "gate": {other: 4}}))
    new = tmp_path / "new" / "boxes_official_0"
    new.mkdir(parents=True)
    (new / "found.json").write_text(json.dumps({"network": name, "found": {"auc": 0.8}}))
    (new / "model.keras").write_bytes(b"new")
    mammograms.take(new.parent, tmp_path / "cache")
    results = json.loads(mammograms.RESULTS.read_text())
    assert results == {name: {"auc": 0.8}, "test": {other: 2}, "gate": {other: 4}}
    assert (tmp_path / "cache" / "boxes_official_0" / "model.keras").read_bytes() == b"new"
    (new / "model.keras").write_bytes(b"newer")
    with pytest.raises(ValueError, match="holds another network"):
        mammograms.take(new.parent, tmp_path / "cache")
