"""Attacks and noise of their size, told apart by maps: the size, the control, and areas worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from small_models import classifier

from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.attack_detection import attack_scores, detection
from xaiutils.transforms import TRANSFORMS


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(40, 200, (8, 16, 16, 3)).astype(np.uint8)
    return ImageDataset(pixels, np.arange(8) % 3, ("a", "b", "c"), list("ijklmnop"))


def test_an_attack_moves_the_answer_more_than_noise_of_its_size(images, monkeypatch):
    shown = []
    from xaiutils.evaluation.studies import attack_detection

    real = attack_detection.answers
    monkeypatch.setattr(attack_detection, "answers", lambda m, x, b: shown.append(np.array(x)) or real(m, x, b))
    table = attack_scores(classifier(), images, ["vanilla_gradients", "grad_cam"], epsilon=8.0, n_steps=3)
    assert table.groupby(["method", "attacked"]).size().tolist() == [8] * 6
    attack, noise = (np.sort((x - images.images).reshape(8, -1, 3), axis=1) for x in shown[1:])
    np.testing.assert_allclose(attack, noise, atol=1e-4)
    assert np.abs(shown[1] - shown[2]).max() > 8
    areas = detection(table, n_resamples=50).set_index("method")
    assert areas.loc["answer", "auc"] > 0.9
    assert areas["n"].add(areas["missing"]).tolist() == [8] * 3


def test_without_strength_there_is_nothing_to_detect(images):
    for reference in ("original", "smoothed"):
        table = attack_scores(classifier(), images, ["vanilla_gradients"], "fgsm", reference, epsilon=0.0)
        assert not table["turned"].any()
        assert detection(table, n_resamples=5)["auc"].tolist() == [0.5, 0.5]


def test_areas_by_hand():
    rows = [
        ("i", True, 0.9),
        ("j", True, 0.4),
        ("k", True, np.nan),
        ("i", False, 0.5),
        ("j", False, 0.1),
        ("k", False, 0),
    ]
    table = pd.DataFrame(rows, columns=["image_id", "attacked", "score"]).assign(method="m", turned=False)
    table["patient"] = table["image_id"]
    found = detection(table, n_resamples=20).iloc[0]
    assert (found["auc"], found["n"], found["missing"]) == (0.75, 2, 1)
    assert np.isnan(detection(table.assign(score=np.nan), n_resamples=5)["auc"]).all()


def test_refusals(images):
    assert {"pgd", "fgsm"} <= set(TRANSFORMS)
    with pytest.raises(ValueError, match="attack='rotate'"):
        attack_scores(classifier(), images, [], "rotate")
    with pytest.raises(ValueError, match="reference='clean'"):
        attack_scores(classifier(), images, [], reference="clean")
