"""A user's own models in parameters, runs, the command line and matrices (FAULTS C3)."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xaiutils as xai
from xaiutils import workbook
from xaiutils.backend import keras
from xaiutils.workbook.assignments import read_arguments
from xaiutils.workbook.own_models import by_name, file_digest, own_model
from xaiutils.workbook.parameters import check
from xaiutils.workbook.run_all import NOTEBOOKS, check_data, notebooks, prepare, run_notebooks
from xaiutils.workbook.take_own import sample_of

STEPS = notebooks(NOTEBOOKS)
DATA = {
    "dataset": "digits",
    "data_dir": "",
    "data_options": {},
    "image_size": 32,
    "n_train": 20,
    "n_val": 40,
    "n_test": 20,
    "seed": 0,
}
layers = keras.layers


def save(path, units=10, size=32, last="softmax"):
    """A model of one channel that was never trained, in a file."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 5, strides=2, activation="relu")(inputs))
    keras.Model(inputs, layers.Dense(units, activation=last)(x)).save(path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "mine.keras")


def test_a_path_is_taken_from_where_the_user_is(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    found = own_model("mine.keras")
    assert (found.name, found.path) == ("mine", str(file))
    assert own_model({"path": "mine.keras", "name": "ours", "scaling": "0-1"}).entry == {
        "name": "ours",
        "path": str(file),
        "scaling": "0-1",
    }
    assert own_model("vit_mini16") is None


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["missing.keras"], "there is no missing.keras"),
        (["efficientnet"], "Or give the path of a file of your own"),
        ([{"path": "{file}", "skaling": "0-1"}], "unknown option 'skaling' of .*; did you mean scaling"),
        ([{"path": "{file}", "name": "a/b"}], "is not a folder name"),
        ([{"path": "{file}", "name": "vit_mini16"}], "is that of a model of this package"),
        ([{"scaling": "0-1"}], "nor a mapping with a 'path'"),
        ([{"path": ""}], "the path of .* is empty"),
        (["mine.KERAS"], "there is no mine.KERAS"),
        (["{file}", "{file}"], "twice"),
    ],
)  # fmt: skip
def test_bad_entries_are_refused_before_anything_runs(file, models, words, tmp_path):
    filled = [
        {k: v.format(file=file) for k, v in m.items()} if isinstance(m, dict) else m.format(file=file) for m in models
    ]
    with pytest.raises(ValueError, match=words):
        run_notebooks({"models": filled}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_options_of_the_command_line(file):
    given = [
        f"models={file}",
        "model_options.scaling=0-1",
        "model_options.class_names=no,1",
        "model_options.trusted=true",
    ]
    values = read_arguments(given)
    assert values["model_options"] == {"scaling": "0-1", "class_names": ["no", "1"], "trusted": True}
    assert check(values)
    with pytest.raises(ValueError, match="no model of your own"):
        check({"models": ["vit_mini16"], "model_options": {"scaling": "0-1"}})
    with pytest.raises(ValueError, match="did you mean scaling"):
        check({"models": [str(file)], "model_options": {"scalling": "0-1"}})


def test_a_comma_in_a_path(tmp_path):
    path = str(tmp_path / "mine, best.keras")
    given = [f'models="{path}", vit_mini16', f"models={path}, vit_mini16"]
    assert read_arguments(given[:1])["models"] == [path, "vit_mini16"]
    assert read_arguments(given[1:])["models"] != [path, "vit_mini16"]
    Path(path).touch()
    assert read_arguments([f"models={path}"])["models"] == [path]


def test_each_notebook_is_given_the_file_or_its_name(file, capsys):
    shared = prepare({"models": [str(file)], "model_options": {"scaling": "0-1"}, "dataset": "digits"}, STEPS)
    entry = {"name": "mine", "path": str(file), "scaling": "0-1"}
    of_step = {step.stem[:2]: values for step, values in shared.items()}
    assert of_step["02"]["models"] == of_step["05"]["models"] == [entry]
    assert of_step["06"]["model"] == "mine"
    assert of_step["01"]["image_size"] == 32, "left at its default, it is what the model takes"
    assert "image_size=32, as mine takes it" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"image_size=64, but mine takes 32 x 32 pixels. Give image_size=32"):
        prepare({"models": [str(file)], "image_size": 64}, STEPS)


@pytest.mark.parametrize(("n_val", "n_train", "chosen"), [(6, 42, "train"), (64, 500, "val"), (40, 20, "val")])
def test_a_scaling_is_measured_on_more_than_a_few_images(n_val, n_train, chosen):
    """Of 6 validation images a model of x / 255 was right on all by raw pixels, and read so from then on."""
    ones = {s: dataset(n, s) for s, n in (("val", n_val), ("train", n_train))}
    assert sample_of(ones) is ones[chosen]
    assert sample_of({"test": ones["val"]}) is ones["val"]


def dataset(n, split):
    pixels, ids = np.zeros((n, 4, 4, 3), np.uint8), [f"{split}{i}" for i in range(n)]
    return xai.ImageDataset(pixels, np.arange(n) % 2, ("no", "yes"), ids=ids, split=split)


@pytest.fixture
def run_with(tmp_path):
    """Start a notebook of one run; the first prepares its data."""
    place = {"run_name": "r", "runs_dir": str(tmp_path)}
    workbook.start("01_data_preparation", {**DATA, **place})

    def start(notebook, **parameters):
        return workbook.start(notebook, {**place, **parameters})

    return start


def test_a_run_evaluates_a_file_and_knows_it_from_then_on(file, run_with, capsys):
    entry = {"path": str(file), "class_names": [str(d) for d in range(9, -1, -1)]}
    run = run_with("02_train_models", models=[entry])
    assert run.own == run.parameters["models"] == ["mine"]
    model = run.model("mine")
    said = capsys.readouterr().out
    assert "evaluated as it is and not trained here" in said
    assert "Under no reading of its pixels does the model do better than chance" in said
    kept = json.loads((run.model_folder("mine") / "own.json").read_text())
    assert kept["digest"] == file_digest(file)
    assert (run.folder / "tables" / "scaling_mine.csv").exists()
    plain = xai.wrap(file, scaling=kept["options"]["scaling"])
    ds = run.dataset("test")
    np.testing.assert_allclose(xai.predict(model, ds.images), xai.predict(plain, ds.images)[:, ::-1], atol=1e-5)
    later = run_with("05_quantitative_comparison", models=[])
    assert later.trained == later.parameters["models"] == ["mine"]
    np.testing.assert_allclose(xai.predict(later.model("mine"), ds.images), xai.predict(model, ds.images), atol=1e-6)
    assert run_with("06_sanity_checks", model="mine").parameters["model"] == "mine"
    with pytest.raises(ValueError, match="Run 02_train_models again, or give another 'name'"):
        run_with("05_quantitative_comparison", models=[{**entry, "scaling": "caffe"}]).model("mine")


def test_a_changed_file_is_refused_by_name(tmp_path, run_with):
    path = save(tmp_path / "mine.keras")
    run_with("02_train_models", models=[{"path": str(path), "scaling": "0-1"}]).model("mine")
    save(path, last="sigmoid")
    with pytest.raises(ValueError, match=r"mine.keras, the file of mine, is not the one that notebook 02 evaluated"):
        run_with("05_quantitative_comparison", models=[]).model("mine")
    path.unlink()
    with pytest.raises(ValueError, match="is no longer there"):
        run_with("05_quantitative_comparison", models=[]).model("mine")


def test_a_page_without_a_run_takes_a_changed_file_again(tmp_path, run_with):
    """Nothing was evaluated with the old one."""
    path = save(tmp_path / "mine.keras")
    entry = {"path": str(path), "scaling": "0-1"}
    before = run_with("explorer", models=[entry]).model("mine").facts
    assert run_with("explorer", models=[entry]).model("mine").facts == before
    save(path, last="sigmoid")
    assert run_with("explorer", models=[entry]).model("mine").facts.scaling == "0-1"
    again = run_with("explorer", models=[{**entry, "scaling": "-1-1"}])
    assert again.model("mine").facts.scaling == "-1-1"
    assert json.loads((again.model_folder("mine") / "own.json").read_text())["digest"] == file_digest(path)
    with pytest.raises(ValueError, match="is not the one that"):
        save(path, last="softmax")
        run_with("explorer", models=[{**entry, "scaling": "-1-1", "digest": file_digest(path)[::-1]}]).model("mine")


def test_a_model_that_does_not_fit_the_data_is_refused(tmp_path, run_with):
    small = save(tmp_path / "small.keras", size=24)
    with pytest.raises(ValueError, match="small takes images of 24 x 24 pixels, and the data were prepared with 32"):
        run_with("02_train_models", models=[str(small)]).model("small")
    few = save(tmp_path / "few.keras", units=3)
    with pytest.raises(ValueError, match="few: the model answers with 3 classes and the data have 10"):
        run_with("02_train_models", models=[str(few)]).model("few")


def test_two_files_of_one_name_are_refused(tmp_path):
    """The second would stand for both."""
    paths = [tmp_path / folder / "mine.keras" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    with pytest.raises(ValueError, match="are both called 'mine'"):
        by_name({"models": [str(path) for path in paths]})


@pytest.fixture
def test_images(tmp_path):
    """A folder with test images alone, dark and bright ones."""
    for name, grey in (("dark", 40), ("bright", 220)):
        folder = tmp_path / "images" / "test" / name
        folder.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((32, 32, 3), grey + i, np.uint8)).save(folder / f"{name}{i}.png")
    return tmp_path / "images"


def test_test_images_alone_do_for_an_own_model(test_images, tmp_path, capsys):
    path = save(tmp_path / "mine.keras", units=2)
    place = {"run_name": "r", "runs_dir": str(tmp_path / "runs")}
    data = {**DATA, "dataset": "folder", "data_dir": str(test_images)}
    run = workbook.start("01_data_preparation", {**place, **data})
    assert list(run.splits()) == ["test"]
    with pytest.raises(ValueError, match=r"the data states the splits \['test'\], and no 'val'"):
        run.dataset("val")
    workbook.start("02_train_models", {**place, "models": [str(path)]}).model("mine")
    assert "The data have test images alone: the scaling that does best on them was taken" in capsys.readouterr().out
    check_data({**data, "models": [{"name": "mine", "path": str(path)}]})
    for models in ([], ["vit_mini16"], [{"name": "mine", "path": str(path)}, "vit_mini16"]):
        with pytest.raises(ValueError, match="has test images alone, and nothing can be trained on them"):
            check_data({**data, "models": models})
