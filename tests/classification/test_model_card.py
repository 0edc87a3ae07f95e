"""The model card: everything that the run knows is on it, and what it does not know is said."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from simulated_predictions import THESIS, TWO, as_confusion, simulated

from xaiutils.backend import keras
from xaiutils.classification import Predictions, assess, claim_checklist, compare_models, model_card
from xaiutils.datasets import DATASETS, ImageDataset
from xaiutils.own_model.wrap import wrap


@dataclass(frozen=True)
class Recipe:
    name: str = "modern"
    learning_rate: float = 1e-3
    note: str = "a | b"


def data(n, split, name="phantom", patients=None):
    pixels = np.zeros((n, 8, 8, 3), np.uint8)
    ids = [f"{split}{i}" for i in range(n)]
    sides = pd.DataFrame({"density": [str(i % 4) for i in range(n)]})
    return ImageDataset(pixels, np.arange(n) % 2, TWO, ids, name=name, split=split, patients=patients, metadata=sides)


@pytest.fixture(scope="module")
def card():
    history = pd.DataFrame({"epoch": [1, 2, 3], "val_loss": [3.0, 1, 2], "seconds": [1.0, 2, 3]})
    history["stage"] = ["head", "head", "all"]
    history.attrs["kept_epoch"] = 3
    groups = {"patient": np.arange(200) // 2}
    report = assess(simulated(200, names=TWO, groups=groups), simulated(100, seed=1, names=TWO), name="net")
    other = simulated(200, skill=0.2, names=TWO, groups=groups)
    return model_card(
        report,
        {"train": data(30, "train"), "test": data(20, "test", patients=[f"p{i // 2}" for i in range(20)])},
        architecture="EfficientNet-Lite0",
        paper="Tan & Le 2019",
        n_weights=3_371_234,
        weights="ImageNet",
        weights_licence="Apache-2.0",
        recipe=Recipe(),
        history=history,
        environment={"cores": 2, "gpus": [], "python": "3.11", "versions": {"keras": "3.15"}, "git_commit": "abc123"},
        options={"difficulty": "hard"},
        comparison=compare_models({"net": report.predictions, "other": other}),
    ), report


def test_all_that_the_run_knows_is_on_the_card(card):
    text, report = card
    entry = DATASETS["phantom"]
    for said in (
        "# Model card: net",
        "EfficientNet-Lite0 (Tan & Le 2019)",
        "Weights: 3,371,234.",
        "Licence of these weights: Apache-2.0.",
        entry.title,
        entry.citation,
        entry.licence,
        "Options: difficulty='hard'.",
        "| train | 30 | 15 | 15 | not known |",
        "| test | 20 | 10 | 10 | 10 |",
        "3 epochs in 6 s; the weights of epoch 3 were kept.",
        "Stages: head 2 epochs, all 1 epoch.",
        "CPU, 2 cores",
        "commit abc123",
        "| learning_rate | 0.001 |",
        "| note | a \\| b |",
        "Not a medical device",
        "### Per image (200 images)",
        "### Per patient (100 patients)",
        "count patients as independent units (100 of them; 1,000 bootstrap replicates)",
        "specificity 0.889",
        "chosen on",
        "validation",
        "Temperature fitted on the validation images",
        " | < 0.001 | < 0.001 |",
        "DeLong, Obuchowski's for patients",
        "without results for each value: density",
    ):
        assert said in text, said
    for sentence in report.sentences:
        assert sentence in text


def test_the_numbers_are_the_reports(card):
    text, report = card
    for metric, row in report.metrics.iterrows():
        shown = f"{row['value']:.3f}" + (f" [{row['low']:.3f}, {row['high']:.3f}]" if np.isfinite(row["low"]) else "")
        assert f"| {metric} | {shown} | {row['majority']:.3f} | {row['random']:.3f} |" in text
    (a, b), (c, d) = report.confusion.to_numpy()
    assert f"| benign | {a} | {b} |" in text
    assert f"| malignant | {c} | {d} |" in text


def test_it_is_markdown(card):
    """Every table has as many cells in each row as in its head, and stands between blank lines."""
    lines = card[0].splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        cells = len(re.findall(r"(?<!\\)\|", line))
        if line.startswith("|") and before.startswith("|"):
            assert cells == len(re.findall(r"(?<!\\)\|", before)), line
        if line.startswith(("|", "#", "- ")) and not before.startswith(line[0]):
            assert before == "", line
    assert not re.search(r"\bnan\b|None", card[0])


def test_what_is_not_known_is_said():
    report = assess(as_confusion(THESIS["INbreast ViT"][0]), name="ViT")
    text = model_card(report, {"test": data(20, "test", name="my own")})
    assert text.count("not stated; complete by hand") >= 5
    assert "Data set: my own." in text
    assert "It does no better than the majority class" in text
    assert "explain answers that carry no proven skill" in text
    assert "Results per patient: patients are not known" in text
    assert "Thresholds and temperature on validation images." in text
    assert "these images (optimistic)" in text


def test_the_time_of_the_whole_call_and_a_temperature_that_is_not_fixed():
    labels = np.arange(40) % 2
    certain = Predictions(labels, np.stack([1 - labels, labels], axis=1), TWO)
    report = assess(simulated(60, names=TWO), certain)
    history = pd.DataFrame({"epoch": [1], "val_loss": [1.0], "seconds": [2.0], "kept": [True]})
    history.attrs["seconds"] = 30.4
    text = model_card(report, {"test": data(20, "test")}, history=history)
    assert "1 epoch in 30 s" in text
    assert np.isnan(report.temperature)
    assert "The validation images fix no temperature" in text
    assert "Temperature fitted" not in text
    assert "- Temperature on validation images." in text


def test_many_classes_have_a_card():
    report = assess(simulated(60, 3))
    ds = ImageDataset(np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 2], tuple("abc"), list("xyz"), split="test")
    text = model_card(report, {"test": ds}, recipe={"epochs": 5})
    assert "Operating points and net benefit: no class was named as the positive one." in text
    assert "| epochs | 5 |" in text
    assert "probability of the top class" in text


def test_an_own_model_is_described_by_its_facts(tmp_path):
    """One that was trained elsewhere: nothing of this package's own models may be said of it."""
    image, age = keras.Input((8, 8, 1)), keras.Input((2,), name="age")
    joined = keras.layers.concatenate([keras.layers.Flatten()(image), age])
    keras.Model([image, age], keras.layers.Dense(1, "sigmoid")(joined)).save(tmp_path / "mine.keras")
    model = wrap(tmp_path / "mine.keras", scaling="0-1", inputs={"age": "case"}, class_names=TWO)
    report = assess(simulated(60, names=TWO))
    text = model_card(report, {"test": data(20, "test")}, own=model)
    assert "8 x 8 pixels in one channel, values 0 to 255; scaled by '0-1' before the model (as was given)." in text
    assert "Further inputs, of every case its own: age." in text
    assert f"Head: one sigmoid unit; outputs {TWO[0]}, {TWO[1]}." in text
    assert "Source: the user's own, mine.keras." in text
    assert "Trained elsewhere" in text
    assert "Hardware and software of the evaluation: not" in text
    assert str(tmp_path) not in text
    assert "three channels" not in text
    assert "scales them itself" not in text

    model.facts = replace(model.facts, scaling="model", scaling_from="measured", channels=5, head="sigmoid")
    text = model_card(report, {"test": data(20, "test")}, own=model)
    assert "in 5 channels, values 0 to 255; the model scales them itself (measured: of all scalings it fits" in text
    assert "one sigmoid unit (head='sigmoid' was given)" in text


# The checklist CLAIM 2024 ---------------------------------------------------------------------------------------------


def test_the_checklist_has_44_items_and_what_the_run_knows():
    groups = {"patient": np.arange(200) // 2}
    report = assess(simulated(200, names=TWO, groups=groups), name="net")
    history = pd.DataFrame({"epoch": [1, 2], "val_loss": [3.0, 1], "kept": [False, True]})
    whose = {"train": list("aabb"), "test": list("bccd")}
    splits = {split: data(4, split, "mine", patients) for split, patients in whose.items()}
    facts = {"architecture": "EfficientNet-Lite0", "recipe": {"monitor": "val_loss", "learning_rate": 0.1}}
    text = claim_checklist(report, splits, history=history, n_weights=7, comparison=None, **facts)
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")][2:]
    assert [int(row[0]) for row in rows] == list(range(1, 45))
    assert {len(row) for row in rows} == {3}
    answers = {int(row[0]): row[2].strip() for row in rows}
    assert answers[20] == "patients, but for 1 who are in several parts"
    assert "monitor=val_loss, learning_rate=0.1" in answers[25]
    assert answers[26].startswith("the weights of epoch 2, best by val_loss")
    assert f"accuracy {report.metrics.loc['accuracy', 'value']:.3f}" in answers[32]
    n_open = sum("complete by hand" in answer for answer in answers.values())
    assert f"{n_open} of 44 items are for you" in text
    known = claim_checklist(
        report, splits, environment={"python": "3.11"}, weights="ImageNet", **facts, history=history
    )
    assert f"{n_open - 2} of 44 items are for you" in known


def test_the_checklist_says_where_patients_are_not_known():
    report = assess(simulated(50, names=TWO), name="net")
    text = claim_checklist(report, {"train": data(4, "train", "mine"), "test": data(4, "test", "mine")})
    assert "patients are not known, and images of one may be in several parts" in text
    assert "| 35 | How many were included and excluded | train: 4 images, test: 4 images; 0 left out |" in text
    assert "each generated by itself" in claim_checklist(report, {"test": data(4, "test")})
    assert "| 26 | How the final model was chosen | **complete by hand** |" in text
