"""The mammogram phantom: a function of its seed, without shortcuts, with evidence that is exact and decides."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import find_leaks, phantom
from xaiutils.evaluation.studies.controls import control_maps

LESION_FIELDS = ("lesion", "core", "spicules")
REACH_MM = 10  # of a blurred margin and the detector's blur beyond a lesion's mask, in the image sizes used here
ANATOMY_FIELDS = ("breast", "pectoral", "tag_mask", "decoys")


def grown(mask, mm):
    """The mask dilated by so many millimetres."""
    return ndimage.distance_transform_edt(~mask) * 224 / len(mask) <= mm if mask.any() else mask


# A function of its seed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", phantom.TASKS)
def test_an_image_is_a_function_of_its_seed(task):
    a, b = (xai.load_dataset("phantom", split="train", image_size=64, limit=6, task=task) for _ in range(2))
    np.testing.assert_array_equal(a.pixels, b.pixels)
    np.testing.assert_array_equal(a.masks, b.masks)
    other = xai.load_dataset("phantom", split="train", image_size=64, limit=6, seed=1, task=task)
    assert not np.array_equal(a.pixels, other.pixels)
    first = xai.load_dataset("phantom", split="train", image_size=64, limit=2, task=task)
    np.testing.assert_array_equal(a.pixels[:2], first.pixels)
    n_classes = len(a.class_names)
    assert a.labels.tolist() == [i % n_classes for i in range(6)]
    assert a.images.shape == (6, 64, 64, 3)
    assert a.masks.any(axis=(1, 2)).tolist() == [a.class_names[label] != "normal" for label in a.labels]


def test_splits_are_disjoint():
    splits = {s: xai.load_dataset("phantom", split=s, image_size=32, limit=30) for s in ("train", "val", "test")}
    assert find_leaks(splits) == []
    assert len({i for d in splits.values() for i in d.ids}) == 90


@pytest.mark.parametrize("size", [8, 33, 64, 448])
@pytest.mark.parametrize("task", ["presence", "five"])
def test_every_size_works(task, size):
    for seed in range(5):
        p = phantom.generate(seed, size, task)
        assert p.image.shape == p.evidence.shape == p.lesion.shape == (size, size)
        assert p.image.dtype == p.noise_free.dtype == p.evidence.dtype == np.float32
        assert 0 <= p.image.min() <= p.image.max() <= 1


# Anatomy and lesions ------------------------------------------------------------------------------------------------


def test_what_a_phantom_says_of_itself_is_so():
    phantoms = [phantom.generate(seed, 112, task) for task in ("margin", "five") for seed in range(60)]
    for p in phantoms:
        chest_wall = p.breast[:, 0 if p.side == "L" else -1]
        assert chest_wall.sum() > 2 * p.breast[:, -1 if p.side == "L" else 0].sum()
        assert p.pectoral.any() == (p.view == "MLO")
        assert p.tag_mask.any() == p.tag
        assert not (p.tag_mask & (p.breast | p.lesion | p.pectoral)).any()
        assert bool(p.spicules.sum() > 20) == (p.kind == "malignant mass")
        assert (p.kind == "normal") == np.isnan(p.contrast) == np.isnan(p.radius_mm) == (not p.lesion.any())
        assert not (p.core & ~p.lesion).any()
        if p.kind != "normal":
            assert (p.core & ~p.breast).sum() <= 0.02 * p.core.sum()
            empty = phantom.generate(p.seed, 112, p.task, lesion=False)
            assert (p.noise_free > empty.noise_free)[p.core].all()
    for field, values in {"view": {"CC", "MLO"}, "side": {"L", "R"}, "tag": {True, False}}.items():
        assert {getattr(p, field) for p in phantoms} == values
    assert {p.density for p in phantoms} == {"fatty", "scattered", "heterogeneous", "dense"}


def test_denser_breasts_are_brighter():
    phantoms = [phantom.generate(seed, 64, lesion=False) for seed in range(160)]
    brightness = [
        np.mean([p.noise_free[p.breast & ~p.pectoral].mean() for p in phantoms if p.density == density])
        for density in ("fatty", "scattered", "heterogeneous", "dense")
    ]
    assert brightness == sorted(brightness)


def test_parenchyma_has_the_power_spectrum_it_says():
    """The exponent measured in a window inside dense breasts, around the published 3."""
    slopes = []
    for seed in range(60):
        p = phantom.generate(seed, 224, lesion=False)
        row, column = np.unravel_index(
            np.argmax(ndimage.distance_transform_edt(p.breast & ~p.pectoral)), p.breast.shape
        )
        window = p.noise_free[row - 24 : row + 24, column - 24 : column + 24]
        if p.density == "dense" and window.shape == (48, 48):
            power = np.abs(np.fft.fft2((window - window.mean()) * np.outer(np.hanning(48), np.hanning(48)))) ** 2
            frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(48)))
            used = (frequency > 3 / 48) & (frequency < 0.25)
            slopes.append(-np.polyfit(np.log(frequency[used]), np.log(power[used]), 1)[0])
    assert len(slopes) >= 5
    assert 2.5 < np.mean(slopes) < 4


def test_difficulty_lowers_the_contrast():
    for task in ("margin", "calcifications"):
        easy, medium, hard = (
            [phantom.generate(seed, 32, task, level).contrast for seed in range(20)]
            for level in ("easy", "medium", "hard")
        )
        assert min(easy) >= max(medium) >= min(medium) >= max(hard)


def test_metadata():
    ds = xai.load_dataset("phantom", image_size=32, limit=10, task="five")
    facts = ["view", "side", "density", "contrast", "radius_mm", "tag", "lesion_mm", "mm_per_pixel"]
    assert list(ds.metadata)[:8] == facts
    p = phantom.generate(2_000_001, 32, "five")
    row = ds.metadata.iloc[1]
    assert (row["view"], row["side"], row["density"], row["tag"]) == (p.view, p.side, p.density, p.tag)
    assert row["lesion_mm"] == 2 * p.radius_mm
    assert row["mm_per_pixel"] == 224 / 32
    assert ds.metadata["lesion_mm"].isna().tolist() == (ds.labels == 0).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "masses"}, "presence, margin, calcifications, shortcut, five"),
        ({"difficulty": "simple"}, "easy, medium, hard"),
        ({"task": "shortcut", "tags": "none"}, "iid, neutral, flipped"),
        ({"task": "shortcut", "tag_probability": 1.2}, "between 0 and 1"),
        ({"task": "shortcut", "tag_probability": float("nan")}, "between 0 and 1"),
        ({"tags": "flipped"}, "options of task='shortcut'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        xai.load_dataset("phantom", limit=2, image_size=32, **options)


def test_a_label_of_another_task_is_refused():
    with pytest.raises(ValueError, match="labels 0 to 1"):
        phantom.generate(0, 32, label=2)


# Twins and evidence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", ["easy", "medium"])
@pytest.mark.parametrize("task", phantom.TASKS)
def test_twins_differ_in_the_lesion_alone(task, difficulty):
    for seed in range(10):
        p = phantom.generate(seed, 96, task, difficulty)
        twin = phantom.counterfactual(p)
        assert twin.label == phantom.TASKS[task].twins[p.label] != p.label
        for field in ("view", "side", "density", "beta", "centre", "tag"):
            assert getattr(p, field) == getattr(twin, field)
        for field in ANATOMY_FIELDS:
            np.testing.assert_array_equal(getattr(p, field), getattr(twin, field))
        near = grown(p.lesion | twin.lesion, REACH_MM)
        np.testing.assert_allclose(p.image[~near], twin.image[~near], atol=1e-6)
        if "normal" not in (p.kind, twin.kind):
            assert (p.contrast, p.radius_mm) == (twin.contrast, twin.radius_mm)


@pytest.mark.parametrize("task", phantom.TASKS)
def test_evidence_is_the_difference_to_the_twin(task):
    for seed in range(20):
        p = phantom.generate(seed, 128, task)
        if p.kind == "normal":
            assert not p.evidence.any()
            continue
        twin = phantom.counterfactual(p)
        np.testing.assert_array_equal(p.evidence, np.abs(p.noise_free - twin.noise_free))
        union = p.lesion | twin.lesion
        assert p.evidence[~grown(union, REACH_MM)].max() <= 1e-6
        assert p.evidence[grown(union, 3)].sum() >= 0.98 * p.evidence.sum()
        assert p.evidence.max() > 0.05


def test_the_lesion_mask_holds_the_evidence_of_malignant_masses():
    """The best row that a benchmark can reach: relevance mass of the evidence itself in the mask, grown by 1.5 mm."""
    inside = [
        p.evidence[grown(p.lesion, 1.75)].sum() / p.evidence.sum()
        for p in (phantom.generate(seed, 128) for seed in range(1, 80, 2))
    ]
    assert np.mean(inside) >= 0.9


def test_a_lesion_lies_anywhere_in_the_breast():
    """Its row says nothing about its column."""
    places = np.array([np.argwhere(phantom.generate(seed, 64).lesion).mean(axis=0) for seed in range(1, 60)])
    assert (places.std(axis=0) > 3).all()
    assert np.abs(places[:, 0] - places[:, 1]).mean() > 5
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.5


def test_without_its_lesion_an_image_is_background():
    for task in ("margin", "five"):
        for seed in range(6):
            p, empty = phantom.generate(seed, 96, task), phantom.generate(seed, 96, task, lesion=False)
            assert (empty.label, empty.kind, empty.tag) == (p.label, "normal", p.tag)
            assert not any(getattr(empty, field).any() for field in LESION_FIELDS)
            assert not empty.evidence.any()
            near = grown(p.lesion, REACH_MM)
            np.testing.assert_allclose(p.image[~near], empty.image[~near], atol=1e-6)


def test_the_marker_changes_its_box_alone():
    for seed in range(6):
        on, off = (phantom.generate(seed, 96, "shortcut", tag=tag) for tag in (True, False))
        assert (on.tag, off.tag) == (True, False)
        beyond = ~ndimage.binary_dilation(on.tag_mask, iterations=3)
        np.testing.assert_allclose(on.image[beyond], off.image[beyond], atol=1e-6)
        np.testing.assert_allclose(on.evidence, off.evidence, atol=1e-6)
        assert on.noise_free[on.tag_mask].max() > 0.7 > off.noise_free[on.tag_mask].max()


# No shortcuts but the one that is asked for -------------------------------------------------------------------------


def test_neither_brightness_nor_edges_nor_the_centre_find_a_lesion_in_company():
    """Within the breast: the black beside it ranks a map of the breast alone at 0.8."""
    names = ("intensity", "edges", "centre", "oracle_full")
    found, pointed = {name: [] for name in names}, {name: [] for name in names}
    ds = xai.load_dataset("phantom", "test", 96, 60, difficulty="medium")
    maps = control_maps(ds)
    for i, image_id in enumerate(ds.ids):
        p = phantom.generate(int(image_id[-8:]), 96, difficulty="medium")
        inside = p.breast & ~p.tag_mask
        for name in names:
            found[name].append(roc_auc_score(p.lesion[inside], maps[name][i][inside]))
            pointed[name].append(p.lesion.flat[maps[name][i].argmax()])
    auc, hits = ({name: float(np.mean(values)) for name, values in all_.items()} for all_ in (found, pointed))
    assert auc["intensity"] < 0.72
    assert max(auc["edges"], auc["centre"]) < 0.62
    assert max(hits[name] for name in names[:-1]) <= 0.1
    assert auc["oracle_full"] == hits["oracle_full"] == 1


@pytest.mark.parametrize("task", phantom.TASKS)
def test_decoys_leave_the_evidence_alone(task):
    """They are there whatever the class, with the lesion or without it, and lie beside it."""
    parts = []
    for seed in range(8):
        p, empty = (phantom.generate(seed, 96, task, "medium", lesion=lesion) for lesion in (True, False))
        np.testing.assert_array_equal(p.decoys, empty.decoys)
        assert not (p.decoys & (p.core | p.tag_mask)).any()
        parts.append((p.decoys & p.breast).sum() / p.breast.sum())
        assert p.evidence[p.decoys].sum() <= 0.05 * p.evidence.sum()
    assert 0.15 < np.mean(parts) < 0.5
    assert not phantom.generate(0, 96, task, "easy").decoys.any()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "size"), [("margin", 96), ("calcifications", 128)])
def test_global_statistics_do_not_tell_the_classes_apart(task, size):
    """A classifier on the image's mean, spread and extremes stays near chance."""
    phantoms = [phantom.generate(seed, size, task) for seed in range(700)]
    labels = np.array([p.label for p in phantoms])
    features = np.array(
        [[p.image.mean(), p.image.std(), p.image.max(), np.percentile(p.image, 99.5)] for p in phantoms]
    )
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features[:450], labels[:450])
    assert roc_auc_score(labels[450:], model.decision_function(features[450:])) <= 0.60
    # One at a time over all images; so too the lesion's peak, which once gave the class away.
    peaks = [p.image[p.lesion].max() for p in phantoms]
    for values in (*features.T, peaks):
        assert 0.4 <= roc_auc_score(labels, values) <= 0.6


def test_the_marker_goes_with_the_label_in_the_shortcut_task_alone():
    def agreement(split, **options):
        ds = xai.load_dataset("phantom", split=split, image_size=16, limit=150, difficulty="easy", **options)
        return np.mean(ds.metadata["tag"].to_numpy() == ds.labels.astype(bool))

    for tags in ("iid", "neutral", "flipped"):
        for split in ("train", "val"):
            assert agreement(split, task="shortcut", tags=tags) == pytest.approx(0.95, abs=0.04)
    assert agreement("test", task="shortcut") == pytest.approx(0.95, abs=0.04)
    assert agreement("test", task="shortcut", tags="neutral") == pytest.approx(0.5, abs=0.09)
    assert agreement("test", task="shortcut", tags="flipped") == pytest.approx(0.05, abs=0.04)
    assert agreement("test", task="shortcut", tag_probability=1) == 1
    for task in ("margin", "presence", "calcifications"):
        assert agreement("test", task=task) == pytest.approx(0.5, abs=0.09)


def test_a_classifier_of_the_corners_takes_the_shortcut():
    """Right where the marker goes with the label as in training, lost where it does not, misled where it is flipped."""

    def corners(split, limit, **options):
        ds = xai.load_dataset("phantom", split=split, image_size=48, limit=limit, task="shortcut", **options)
        grey = ds.pixels[:, :7, :, 0].astype(float)
        return np.stack([grey[..., :11].max(axis=(1, 2)), grey[..., -11:].max(axis=(1, 2))], axis=1), ds.labels

    x, y = corners("train", 400)
    # In each image one corner is the chest wall's: the marker is what makes the difference of the two.
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    auc = {
        tags: roc_auc_score(labels, model.decision_function(features))
        for tags in ("iid", "neutral", "flipped")
        for features, labels in [corners("test", 150, tags=tags)]
    }
    assert auc["iid"] >= 0.85
    assert 0.38 <= auc["neutral"] <= 0.62
    assert auc["flipped"] <= 0.15


# A network learns the margin and nothing else -----------------------------------------------------------------------


def small_cnn(size):
    """About 100,000 weights, from a random start; global max pooling, since the margin is a local thing."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for width, pool in ((16, True), (32, True), (48, True), (64, True), (80, False)):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D()(x) if pool else x
    logits = keras.layers.Dense(2, name="logits")(keras.layers.GlobalMaxPooling2D(name="features")(x))
    return keras.Model(inputs, keras.layers.Softmax(name="probabilities")(logits))


@pytest.fixture(scope="module")
def trained_cnn():
    size = 96
    model = small_cnn(size)
    splits = [
        xai.load_dataset("phantom", split=s, image_size=size, limit=n, difficulty="easy")
        for s, n in (("train", 1500), ("val", 200))
    ]
    xai.train(model, *splits, "scratch", epochs=7, learning_rate=2e-3)
    return model


def malignancy(model, phantoms):
    """The logit for malignant over that for benign, of images rounded as `load_dataset` rounds them."""
    grey = np.stack([np.rint(255 * p.image) for p in phantoms]).astype(np.float32)
    scores = keras.Model(model.input, model.get_layer("logits").output)
    logits = np.concatenate([scores(np.repeat(g[..., None], 3, -1)) for g in np.array_split(grey, 8)])
    return logits[:, 1] - logits[:, 0]


@pytest.mark.slow
def test_a_small_cnn_decides_by_the_shape_of_the_mass(trained_cnn):
    size = trained_cnn.input_shape[1]
    seeds = phantom.image_seeds("test", 240)
    own = [phantom.generate(int(seed), size, difficulty="easy") for seed in seeds]
    labels = np.array([p.label for p in own])
    scores = malignancy(trained_cnn, own)
    auc = roc_auc_score(labels, scores)
    assert auc >= 0.99

    # Only the shape swapped: the score moves to the other side.
    twins = malignancy(trained_cnn, [phantom.counterfactual(p) for p in own])
    toward_malignant = np.where(labels == 1, scores - twins, twins - scores)
    assert np.mean(toward_malignant > 0) >= 0.95
    assert np.mean((scores > 0) != (twins > 0)) >= 0.95

    # The neutral marker put on or taken away: nothing.
    moved = malignancy(trained_cnn, [phantom.generate(p.seed, size, difficulty="easy", tag=not p.tag) for p in own])
    assert abs(roc_auc_score(labels, moved) - auc) <= 0.02
    assert np.mean((scores > 0) != (moved > 0)) <= 0.05

    # The mass taken out: one score for all breasts, whatever their label. It need not be a low one: a network that
    # has never seen a breast without mass may take the absence of a smooth border for malignant.
    empty = malignancy(trained_cnn, [phantom.generate(p.seed, size, difficulty="easy", lesion=False) for p in own])
    assert 0.4 <= roc_auc_score(labels, empty) <= 0.6
    assert empty.std() < 0.25 * (scores[labels == 1].mean() - scores[labels == 0].mean())


# Several labels in one image ----------------------------------------------------------------------------------------


def test_several_labels_are_independent_each_with_its_own_mask():
    ds = xai.load_dataset("phantom", "train", image_size=64, limit=80, task="multi_label")
    again = xai.load_dataset("phantom", "train", image_size=64, limit=16, task="multi_label")
    np.testing.assert_array_equal(ds.select([ds.ids.index(i) for i in again.ids]).label_masks, again.label_masks)
    assert ds.class_names == phantom.LABELS == ("mass", "calcification", "marker")
    np.testing.assert_array_equal(np.corrcoef(ds.labels.T).round(6), np.eye(3))
    np.testing.assert_array_equal(ds.label_masks.any(axis=(2, 3)), ds.labels == 1)
    assert set(ds.label_evidence.ravel()) == {"known", "empty"}
    assert set(ds.metadata["mass kind"]) == {"benign mass", "malignant mass"}


def test_one_label_changes_nothing_but_its_own_finding():
    for seed in range(12):
        whole = phantom.generate_labelled(seed, 96, labels=(1, 1, 1))
        assert not (whole.masks[0] & whole.masks[1]).any()
        for j in range(3):
            without = phantom.generate_labelled(seed, 96, labels=tuple(int(i != j) for i in range(3)))
            changed = np.abs(whole.image - without.image) > 0
            assert changed.any()
            assert not (changed & ~grown(whole.masks[j], 12)).any()  # spicules: the other mass has a larger body
            np.testing.assert_array_equal(whole.evidence[j], np.abs(whole.noise_free - without.noise_free))
            assert without.masks.any(axis=(1, 2)).tolist() == [i != j for i in range(3)]
        np.testing.assert_array_equal(phantom.generate_labelled(seed, 96, labels=(0, 0, 0)).evidence, 0)


def test_a_concept_changes_its_own_pixels_alone():
    """Spicules, grains, tag: nothing beyond their reach. Dense tissue and muscle: the breast itself is another."""
    shown = (1, 1, 0, 1, 1)
    for seed in range(6):
        whole = phantom.generate_concepts(seed, 96, labels=shown)
        assert whole.masks.any(axis=(1, 2)).all()  # a fatty breast has some gland too
        for j in (0, 1, 3):
            without = phantom.generate_concepts(seed, 96, labels=tuple(y * (i != j) for i, y in enumerate(shown)))
            changed = np.abs(whole.image - without.image) > 0
            assert changed.any()
            assert not (changed & ~grown(whole.masks[j], 12)).any()  # spicules: the other mass has a larger body
            assert without.masks.any(axis=(1, 2)).tolist() == [i != j for i in range(5)]
        dense = phantom.generate_concepts(seed, 96, labels=(1, 1, 1, 1, 1)).masks[2]
        assert dense.sum() > 3 * whole.masks[2].sum()
        assert not (dense & whole.masks[4]).any()


def test_concepts_by_example_show_one_or_none():
    ds = phantom.concept_images(3, 5, 48)
    assert ds.class_names == ("none", *phantom.CONCEPTS)
    assert ds.class_counts.tolist() == [5, 3, 3, 3, 3, 3]
    np.testing.assert_array_equal(ds.masks.any(axis=(1, 2)), ds.labels > 0)
    twins = phantom.concept_twins(2, 48)
    changed = {name: (images != twins["none"]).any(axis=(1, 2, 3)).all() for name, images in twins.items()}
    assert changed == {"none": False} | dict.fromkeys(phantom.CONCEPTS, True)
    mixed = xai.load_dataset("phantom", "train", image_size=48, limit=32, task="concepts")
    np.testing.assert_array_equal(np.corrcoef(mixed.labels.T).round(6), np.eye(5))
    shown = np.delete(mixed.label_masks.any(axis=(2, 3)), 2, axis=1)
    np.testing.assert_array_equal(shown, np.delete(mixed.labels, 2, axis=1) == 1)


def test_options_of_other_tasks_are_refused_for_several_labels():
    with pytest.raises(ValueError, match="options of task='shortcut'"):
        xai.load_dataset("phantom", limit=2, task="multi_label", tags="flipped")
    with pytest.raises(ValueError, match="difficulty='simple'"):
        xai.load_dataset("phantom", limit=2, task="multi_label", difficulty="simple")
    with pytest.raises(ValueError, match="did you mean multi_label"):
        xai.load_dataset("phantom", limit=2, task="multilabel")
    with pytest.raises(ValueError, match="expected 0 or 1 for each of mass"):
        phantom.generate_labelled(0, 32, labels=(1, 0))
