"""The check cells of notebooks 03 to 06 notice what they are there for, without running the notebooks."""

import ast
import dataclasses
import itertools
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils import workbook
from xaiutils.attribution.cam.gradient_cams import grad_cam_weights
from xaiutils.attribution.cam.weighted_sum import cam_of_weights
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset, balanced_indices
from xaiutils.evaluation import evaluate_all, score_tables
from xaiutils.evaluation.metrics import localisation
from xaiutils.workbook.run_all import ROOT

sys.path.append(str(ROOT / "tools"))
import refresh_notebooks

SIZE = 64


def cells(name: str, *words: str) -> list[str]:
    """Sources of a notebook's cells that compare numbers, or of those with one of ``words``."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    return [source for source in code if any(word in source for word in words or ("run.expected(",))]


def known_of(source: str) -> dict[str, float]:
    """The numbers that a cell expects, by what they are."""
    return ast.literal_eval(ast.parse(source).body[0].value)


def lines(source: str, capsys, **namespace) -> list[str]:
    exec(source, {"np": np, "xai": xai, "seed": 0, "balanced_indices": balanced_indices, **namespace})
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def run(tmp_path):
    return workbook.start("03_x", {"dataset": "phantom", "seed": 0, "runs_dir": str(tmp_path)})


@pytest.fixture(scope="module")
def bright() -> keras.Model:
    """The logit of class 1 grows with how bright the brightest region is."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255, offset=-0.6)(inputs)
    x = keras.layers.Conv2D(1, 9, strides=4, padding="same", activation="relu", kernel_initializer="ones")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    weights = keras.initializers.Constant([[-0.5, 0.5]])
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", kernel_initializer=weights)(x))


@pytest.fixture
def spots() -> ImageDataset:
    """A bright disc on noise, and its mask."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 120, (6, SIZE, SIZE, 1)).repeat(3, axis=3).astype(np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    middles = rng.integers(16, SIZE - 16, (6, 2))
    masks = np.stack([(rows - y) ** 2 + (columns - x) ** 2 < 100 for y, x in middles])
    pixels[masks] = 240
    return ImageDataset(pixels, [1] * 6, ("a", "b"), [f"i{k}" for k in range(6)], masks)


def replaced(monkeypatch, **changes):
    entry = dataclasses.replace(xai.METHODS["grad_cam"], **changes)
    monkeypatch.setitem(xai.METHODS._entries, "grad_cam", entry)


def flip_grad_cam(monkeypatch):
    flipped = cam_of_weights("grad_cam", "Grad-CAM", lambda A, g: grad_cam_weights(A, -g), "")
    replaced(monkeypatch, compute=flipped.compute, weights=flipped.weights)


def swap_iou(monkeypatch):
    entry = xai.METRICS["iou"]
    swapped = localisation.each_found(lambda found, mask: (found | mask).sum() / max((found & mask).sum(), 1))
    monkeypatch.setitem(xai.METRICS._entries, "iou", dataclasses.replace(entry, compute=swapped))


def swap_methods(monkeypatch):
    other = xai.METHODS["vanilla_gradients"]
    replaced(monkeypatch, compute=other.compute, weights=None, parameters=other.parameters)


class Measured:
    """Stands in for the run: what each line compares, and how far it may go."""

    def __init__(self):
        self.values, self.tolerances = {}, {}

    def expected(self, what, value, known, tolerance):
        self.values[what], self.tolerances[what] = value, tolerance
        return what

    def differ(self, other: "Measured") -> list[str]:
        return [k for k, v in self.values.items() if not abs(v - other.values[k]) <= self.tolerances[k]]


@pytest.mark.parametrize("fault", [None, "masks", flip_grad_cam, swap_iou, swap_methods])
def test_notebook_03_notices(fault, bright, spots, capsys, monkeypatch):
    """A mask that is shifted by 8 pixels, Grad-CAM's sign, IoU upside down, another method's maps."""
    (source,) = (cell for cell in cells("03_attribution_explorer") if "mean IoU" in cell)
    sound, faulty = Measured(), Measured()
    lines(source, capsys, run=sound, test_ds=spots, networks={"efficientnet_lite0": bright})
    assert len(sound.values) == 3
    if fault == "masks":
        spots = ImageDataset(spots.pixels, spots.labels, spots.class_names, spots.ids, np.roll(spots.masks, 8, axis=2))
    elif fault is not None:
        fault(monkeypatch)
    model = keras.models.clone_model(bright)
    model.set_weights(bright.get_weights())
    lines(source, capsys, run=faulty, test_ds=spots, networks={"efficientnet_lite0": model})
    assert bool(sound.differ(faulty)) == (fault is not None), sound.differ(faulty)


def test_notebook_04_tells_all_methods_apart(run, capsys):
    """Maps of the known sizes are as expected; no two methods can change places, or one be doubled or turned over,
    unnoticed."""
    facts, source = cells("04_qualitative_comparison", "def facts(", "run.expected(")
    known = {tuple(what.split(", ")): value for what, value in known_of(source).items()}
    names = list(dict.fromkeys(name for name, _ in known))
    assert len(names) == 8
    mask = np.zeros((1, 16, 16), bool)
    mask[0, 4:8, 4:8] = True

    def made(name):
        """A map of the known size, mean on the evidence, and largest value."""
        on, largest = known.get((name, "on the evidence"), 0.0), known.get((name, "largest"), 0.0)
        found = np.where(np.arange(256).reshape(16, 16) % 2, 1.0, -1.0)
        found[mask[0]], found[0, 0] = on, largest
        rest = ~mask[0] & (np.arange(256).reshape(16, 16) > 0)
        found[rest] *= (256 - largest - 16 * abs(on)) / rest.sum()
        return found[None] * 10 ** known[name, "size"]

    def said(found, masks=mask):
        namespace = {"run": run, "maps": {"efficientnet_lite0": found}, "masks": masks, "pd": pd}
        return [line.endswith("as expected") for line in lines(f"{facts}\n{source}", capsys, **namespace)]

    sound = {name: made(name) for name in names}
    assert said(sound) == [True] * 16
    assert said(sound, np.roll(mask, 8, axis=2)).count(False) >= 4
    for a, b in itertools.combinations(names, 2):
        assert said({**sound, a: sound[b], b: sound[a]}).count(False) >= 2, (a, b)
    for name in names:
        assert False in said({**sound, name: 2 * sound[name]})
        assert False in said({**sound, name: -sound[name]}), name


@pytest.mark.parametrize("fault", [None, "masks", flip_grad_cam, swap_methods])
def test_notebook_05_notices(fault, bright, spots, capsys, monkeypatch):
    """As of notebook 03, in the scores of maps that are read by their positive part."""
    (source,) = cells("05_quantitative_comparison")

    def measured(ds):
        model = keras.models.clone_model(bright)
        model.set_weights(bright.get_weights())
        maps = {"grad_cam": xai.explain(model, ds.images, 1)}
        found = Measured()
        table = evaluate_all(None, ds, maps, ["roc_auc", "entropy"], reading="positive")
        scores = table.assign(model="efficientnet_lite0")
        lines(source, capsys, run=found, score_tables=score_tables, scores=scores)
        return found

    sound = measured(spots)
    assert len(sound.values) == 2
    if fault == "masks":
        spots = ImageDataset(spots.pixels, spots.labels, spots.class_names, spots.ids, np.roll(spots.masks, 8, axis=2))
    elif fault is not None:
        fault(monkeypatch)
    assert bool(sound.differ(measured(spots))) == (fault is not None)


@pytest.mark.parametrize("name", ["05_quantitative_comparison", "06_sanity_checks"])
def test_no_two_methods_change_places_unnoticed(name, run, capsys):
    (source,) = cells(name)
    known = {tuple(what.split(", ")): value for what, value in known_of(source).items()}

    def said(found):
        keys = pd.MultiIndex.from_tuples(found, names=["method", "metric"])
        table = pd.Series(found.values(), keys, name="value").reset_index()
        scores = table.assign(weights="trained", reading="positive", model="efficientnet_lite0")
        left, auc, size = ({m: v for (m, of), v in found.items() if of == part} for part in ("left", "roc_auc", "size"))
        plain = {m: np.full((1, 2, 2), -v) for m, v in size.items()}
        namespace = {"score_tables": score_tables, "scores": scores, "left": left, "auc": auc, "plain": plain}
        return lines(source, capsys, run=run, model="efficientnet_lite0", **namespace)

    assert len(said(known)) == len(known)
    assert all(line.endswith("as expected") for line in said(known))
    for a, b in itertools.combinations(dict.fromkeys(method for method, _ in known), 2):
        swapped = {(({a: b, b: a}).get(m, m), part): value for (m, part), value in known.items()}
        in_both = {key: swapped[key] for key in known if key in swapped}
        assert not all(line.endswith("as expected") for line in said(in_both)), (a, b)


def test_lines_of_expected_numbers(run, tmp_path):
    assert run.expected("IoU", 0.12345, 0.12, 0.01) == "IoU: 0.12 +- 0.01, as expected"
    assert run.expected("IoU", 0.11, 0.12, 0.01) == "IoU: 0.12 +- 0.01, as expected"
    assert run.expected("IoU", 0.13456, 0.12, 0.01) == "IoU: 0.1346, not the expected 0.12 +- 0.01"
    assert run.expected("IoU", np.nan, 0.12, 0.01) == "IoU: nan, not the expected 0.12 +- 0.01"
    other = workbook.start("03_x", {"dataset": "digits", "seed": 0, "runs_dir": str(tmp_path)})
    assert other.expected("IoU", 0.13456, 0.12, 0.01) == "IoU: 0.1346"


def test_a_new_number_is_accepted_into_its_cell(tmp_path):
    notebook = nbformat.v4.new_notebook()
    source = 'sizes = {"a": 0.1, "b": 0.5}\nprint(run.expected("mean IoU", iou, 0.12, 0.01))'
    cell = nbformat.v4.new_code_cell(source)
    text = "a: 0.1 +- 0.1, as expected\nb: 0.7, not the expected 0.5 +- 0.1\n"
    text += "mean IoU: 0.2, not the expected 0.12 +- 0.01\n"
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    notebook.cells.append(cell)
    nbformat.write(notebook, tmp_path / "a.ipynb")
    for accept in (False, True):
        found = refresh_notebooks.unexpected(tmp_path / "a.ipynb", accept)
        assert [line.split(":")[1].strip() for line in found] == ["b", "mean IoU"]
    changed = nbformat.read(tmp_path / "a.ipynb", as_version=4).cells[0].source
    assert changed == 'sizes = {"a": 0.1, "b": 0.7}\nprint(run.expected("mean IoU", iou, 0.2, 0.01))'
