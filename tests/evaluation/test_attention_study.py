"""The study of attention: its conditions, trained and kept, what it measures of them, and the document's numbers."""

import numpy as np
import pytest
from small_models import discs, mldam_network

from xaiutils.classification import Predictions
from xaiutils.evaluation.studies import attention_study as study
from xaiutils.models.mldam import VARIANTS


class Small(study.Setting):
    def build(self, condition, seed=0):
        return mldam_network(self.variant, study.CONDITIONS[condition].attention or "none")


def test_conditions_are_trained_once_with_and_without_augmentation(tmp_path):
    splits, setting = [discs(8, 0), discs(4, 1), discs(6, 2)], Small("mine", 64, epochs=2)
    plain, augmented = (setting.recipe_of(name) for name in ("mldam", "mldam_augmented"))
    assert (plain.copies, plain.rotation, plain.flip_horizontal) == (0, 0, False)
    assert (augmented.copies, augmented.rotation, augmented.shift_across) == (4, 10, 0.05)
    first, *_ = found = study.train_conditions(setting, ["baseline", "mldam_augmented"], splits, [0], tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed*.keras")}
    assert len(kept) == 4
    again = study.train_conditions(setting, ["baseline"], splits, [0], tmp_path)[0]
    for loss, answers in first.answers.items():
        np.testing.assert_array_equal(again.answers[loss].probabilities, answers.probabilities)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed*.keras")} == kept
    table = study.scores(found)
    by_image = study.hits(found).groupby(["condition", "weights"], sort=False)["value"].mean()
    np.testing.assert_allclose(table["accuracy"], by_image)
    assert set(table["n"]) == {6}


def told(backbone, condition, seed, said):
    """A network that says ``said`` of four images of the classes 0, 1, 1, 0."""
    answers = Predictions(np.array([0, 1, 1, 0]), np.eye(2)[said], ("a", "b"), ids=list("wxyz"))
    return study.Trained(backbone, condition, seed, None, {study.BY_VAL: answers})


def test_images_that_all_are_right_on_by_backbone_or_over_all():
    small = [told("small", "baseline", 0, [0, 1, 0, 0]), told("small", "mldam", 0, [0, 1, 1, 1])]
    both = [*small, told("large", "baseline", 0, [1, 1, 1, 0])]
    with pytest.warns(UserWarning, match=r"small, \(a\) baseline, seed 0 75.0%.*large.*have learnt"):
        found = study.agreed(both)
    assert {name: list(places) for name, places in found.items()} == {"small": [0, 1], "large": [1, 2, 3]}
    assert {name: list(places) for name, places in study.agreed(both, "all").items()} == {"small": [1], "large": [1]}
    with pytest.raises(ValueError, match="agree_on='both' is unknown"):
        study.agreed(both, "both")


def test_answers_of_two_conditions_and_of_two_seeds():
    """The mean is the difference of accuracies; pairs of two backbones, or that differ in both, are none."""
    said = {("baseline", 0): [0, 1, 0, 0], ("mldam", 0): [0, 0, 1, 0], ("mldam", 1): [0, 1, 1, 0]}
    trained = [told("small", *key, answers) for key, answers in said.items()] + [
        told("large", "mldam", 1, [0, 1, 1, 0])
    ]
    table = study.answers_of_pairs(trained)
    found = {pair: list(rows["value"]) for pair, rows in table.groupby("pair")}
    assert found == {"a, c": [0, -1, 1, 0], "c, other seed": [0, 1, 0, 0]}
    assert list(table["image_id"]) == 2 * list("wxyz")


@pytest.mark.filterwarnings("ignore:invalid value")  # V is 0 too, and nothing is added to it
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_that_asks_nothing_reads_all_places_alike(variant):
    model = mldam_network(variant)
    (shallow,) = (layer for layer in model.layers if getattr(layer, "filters", 0) == 4)
    shallow.set_weights([np.zeros_like(w) for w in shallow.get_weights()])
    use = study.attention_use(model, discs(3, 0).images)
    places = model.get_layer("mldam_attention").output.shape[-1]
    np.testing.assert_allclose(use["entropy"], 1, atol=1e-5)
    np.testing.assert_allclose(use["pairs"], places if variant == "published" else places**2, rtol=1e-4)


def test_pairs_differ_in_condition_or_seed():
    maps = np.random.default_rng(0).random((4, 2, 12, 12))
    keys = [("small", condition, seed) for condition in ("baseline", "mldam") for seed in (0, 1)]
    given = {k: {"occlusion": m} for k, m in zip(keys, maps, strict=True)}
    found = study.similarity_of_pairs(given, {"small": ["x", "y"]})
    counts = found[found["similarity"] == "ssim"].groupby("pair").size().to_dict()
    assert counts == {"a, other seed": 2, "c, other seed": 2, "a, c": 4}


def test_the_documents_numbers():
    table = study.published_accuracies().set_index(["data", "backbone", "weights"])
    assert table.shape == (12, 5)
    assert table.loc[("CBIS-DDSM", "DenseNet-121", study.BY_VAL)].tolist()[1:] == [0.6108, 0.5584, 0.6396, 0.6125]
    assert np.isnan(table.loc[("CBIS-DDSM", "ResNet-50", study.BY_TRAIN), "(c) MLDAM"])
    for count in table["n"].unique():  # each accuracy is a count of right answers, to four decimals
        values = table.loc[table["n"] == count].iloc[:, 1:].to_numpy()
        right = np.round(values[np.isfinite(values)] * count)
        np.testing.assert_allclose(right / count, values[np.isfinite(values)], atol=6e-5)
