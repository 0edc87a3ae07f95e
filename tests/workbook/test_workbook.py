"""A notebook's start and its run folder: parameters, caches, atomic files."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from xaiutils import datasets, workbook
from xaiutils.backend import keras
from xaiutils.files import replace_file, write_text
from xaiutils.progress import listening, progress


@pytest.fixture
def parameters(tmp_path):
    return {
        "dataset": "phantom", "data_dir": "", "data_options": {}, "image_size": 64,
        "n_train": 6, "n_val": 4, "n_test": 4, "seed": 0, "run_name": "r", "runs_dir": str(tmp_path),
    }  # fmt: skip


def test_start_checks_and_seeds(parameters):
    run = workbook.start("01_x", parameters)
    first = np.random.random()  # noqa: NPY002
    workbook.start("01_x", parameters)
    assert np.random.random() == first  # noqa: NPY002
    assert "01_x: run 'r' on CPU" in repr(run)
    record = json.loads((run.folder / "record" / "01_x.json").read_text())
    assert record["parameters"]["n_train"] == 6
    assert not record["finished"]


def test_warnings_are_notes_of_the_notebook(parameters, capsys):
    """Not red text with a path of somebody's machine in it, which would be committed with the outputs."""
    workbook.start("01_x", parameters)
    warnings.warn("8 maps are 0 everywhere", stacklevel=1)
    assert capsys.readouterr() == ("Note: 8 maps are 0 everywhere\n", "")


def test_start_refuses_unknown_names_at_the_first_start_only(parameters):
    with pytest.raises(ValueError, match=r"unknown parameter 'imagesize'; did you mean image_size"):
        workbook.start("01_x", {**parameters, "imagesize": 3})
    with pytest.raises(ValueError, match="n_val='4' is of type str"):
        workbook.start("01_x", {**parameters, "n_val": "4"})
    run = workbook.start("01_x", {**parameters, "_i": "history", "In": [], "xai": workbook})
    later = {**parameters, "run": run, "counter": 3}
    workbook.start("01_x", later)  # the setup cell run again: the notebook's own variables are no parameters


@pytest.mark.parametrize(
    ("notebook", "given", "match"),
    [
        (
            "attention",
            {"models": []},
            "models of attention must not be empty; give at least one name of xaiutils.MODELS",
        ),
        ("attention", {"models": ["vgg16"], "conditions": []}, "conditions of attention .*CONDITIONS"),
        ("ct_poster", {"models": []}, "models of ct_poster"),
        ("readers", {"models": []}, "models of readers"),
        ("xrelevance", {"models": []}, "models of xrelevance"),
        ("imbalance", {"shares": [], "remedies": []}, "shares and remedies of imbalance .*REMEDIES"),
    ],
)
def test_a_study_refuses_an_empty_list_of_what_it_needs(tmp_path, notebook, given, match):
    with pytest.raises(ValueError, match=match):
        workbook.start(notebook, {"runs_dir": str(tmp_path), **given})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "..", "a/b", "../evil", ".hidden"])
def test_run_names_stay_in_the_folder(parameters, name):
    with pytest.raises(ValueError, match="not a folder name"):
        workbook.start("01_x", {**parameters, "run_name": name})


def test_prepared_data_are_kept_until_a_parameter_changes(parameters, monkeypatch):
    run = workbook.start("01_x", parameters)
    first = run.dataset("train")
    calls = []
    real = datasets.load_dataset
    monkeypatch.setattr("xaiutils.workbook.run.load_dataset", lambda **k: calls.append(k) or real(**k))
    again = workbook.start("02_y", parameters).dataset("train")
    assert not calls
    for name in ("pixels", "labels", "masks"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert (again.ids, again.class_names, again.name, again.split) == (first.ids, first.class_names, "phantom", "train")
    workbook.start("02_y", {**parameters, "seed": 1}).dataset("train")
    workbook.start("02_y", {**parameters, "data_options": {"difficulty": "hard"}}).dataset("train")
    assert len(calls) == 2


def test_several_processes_may_keep_the_same_split(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from xaiutils.datasets import load_dataset
    from xaiutils.datasets.prepared_splits import write_dataset

    ds = load_dataset("phantom", "test", image_size=32, limit=6)
    with ThreadPoolExecutor(4) as pool:
        for copy in pool.map(lambda _: write_dataset(ds, tmp_path / "kept"), range(12)):
            np.testing.assert_array_equal(copy.pixels, ds.pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_what_could_not_be_read_for_now_is_tried_again(parameters, tmp_path, monkeypatch):
    from PIL import Image

    for label in "ab":
        for i in range(12):
            path = tmp_path / "images" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(path)
    changed = {"dataset": "folder", "data_dir": str(tmp_path / "images"), "n_train": 0, "n_val": 0, "n_test": 0}
    run = workbook.start("01_x", {**parameters, **changed})
    real = Image.open

    def away(path):
        raise PermissionError(13, "Permission denied") if str(path).endswith("a/3.png") else OSError(5, "I/O error")

    with monkeypatch.context() as patch:
        lost = ("a/3.png", "b/5.png")
        patch.setattr(Image, "open", lambda p, **k: away(p) if str(p).endswith(lost) else real(p, **k))
        with pytest.warns(UserWarning, match="could not be read"):
            parts = [run.dataset(s) for s in ("train", "val", "test")]
    lost = sum(d.available - len(d) for d in parts)
    assert lost == 2
    assert sum(d.available - len(d) for d in (run.dataset(s) for s in ("train", "val", "test"))) == 0


@pytest.mark.parametrize("dataset", ["phantom", "digits"])  # with and without metadata
def test_a_kept_copy_is_the_same(parameters, dataset, tmp_path):
    from xaiutils.datasets import load_dataset
    from xaiutils.datasets.prepared_splits import write_dataset

    first = load_dataset(dataset, "test", image_size=32, limit=6)
    kept = write_dataset(first, tmp_path / "kept")
    base = kept.pixels
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    np.testing.assert_array_equal(kept.pixels, first.pixels)
    np.testing.assert_array_equal(kept.masks, first.masks)
    pd.testing.assert_frame_equal(kept.metadata, first.metadata, check_dtype=False)
    for name in ("ids", "class_names", "patients", "skipped", "available", "mirrors", "notes", "name", "split"):
        assert getattr(kept, name) == getattr(first, name)


def test_a_damaged_copy_is_made_anew(parameters):
    run = workbook.start("01_x", parameters)
    first = run.dataset("test")
    (folder,) = (run.folder / "data").glob("test-*")
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        for broken in (whole[:middle], b"", whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
            path.unlink()  # not written in place: the data set of before still maps the file
            path.write_bytes(broken)
            np.testing.assert_array_equal(run.dataset("test").pixels, first.pixels)
            assert path.read_bytes() == whole
        path.unlink()
        assert run.dataset("test").ids == first.ids
        assert path.exists()


def test_a_changed_folder_is_read_again(parameters, tmp_path):
    from PIL import Image

    for label in "ab":
        for i in range(12):
            path = tmp_path / "images" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 10 * i + (label == "b"), np.uint8)).save(path)
    changed = {**parameters, "dataset": "folder", "data_dir": str(tmp_path / "images"), "n_train": 0}
    run = workbook.start("01_x", changed)
    before = run.dataset("train")
    (tmp_path / "images" / "a" / "0.png").rename(tmp_path / "images" / "b" / "moved.png")  # relabelled by moving
    after = run.dataset("train")
    assert after.available == before.available == len(before)
    assert np.bincount(after.labels).tolist() != np.bincount(before.labels).tolist() or after.ids != before.ids
    (tmp_path / "images" / "a" / "1.png").unlink()
    (tmp_path / "images" / "a" / "2.png").unlink()
    assert len(run.dataset("train")) < len(before)


def test_a_missing_model_says_what_to_run(parameters):
    run = workbook.start("03_x", parameters)
    with pytest.raises(
        FileNotFoundError, match=r"no trained 'vit' \(it has: none\). Run 02_train_models first with run_name='r'"
    ):
        run.model("vit")


def test_a_model_of_other_data_is_refused(parameters):
    """Another seed draws other splits: the test images may have been training images."""
    import xaiutils as xai

    run = workbook.start("02_x", parameters)
    path = run.model_folder("vit_mini16") / "model.keras"
    path.parent.mkdir(parents=True)
    xai.build_model("vit_mini16", 2, 64).save(path)
    run.stamp_model("vit_mini16")
    assert workbook.start("03_x", {**parameters, "n_test": 2}).model("vit_mini16").name == "vit_mini16"
    for change in ({"seed": 1}, {"dataset": "digits"}, {"data_options": {"difficulty": "hard"}}, {"image_size": 96}):
        (name,) = change
        with pytest.raises(ValueError, match=f"was trained with {name}=.*train under another run_name"):
            workbook.start("03_x", {**parameters, **change}).model("vit_mini16")


def test_later_notebooks_take_the_data_that_the_first_one_settled(parameters, tmp_path):
    place = {name: parameters[name] for name in ("run_name", "runs_dir")}
    with pytest.raises(FileNotFoundError, match=r"no data set yet. Run 01_data_preparation first with run_name='r'"):
        workbook.start("04_x", place)
    assert not (tmp_path / "r").exists(), "a run that never began leaves nothing"
    first = workbook.start("01_x", {**parameters, "positive_class": "malignant"}).dataset("test")
    later = workbook.start("04_x", place)
    assert later.parameters["positive_class"] == "malignant"
    assert later.dataset("test").ids == first.ids
    smaller = workbook.start("07_x", {**place, "n_test": 2, "image_size": 32})  # sizes of its own
    assert smaller.dataset("test").images.shape[:2] == (2, 32)
    assert workbook.start("04_x", place).parameters["n_test"] == 4, "only the first notebook settles"
    (later.folder / "data" / "settled.json").write_text("{")
    with pytest.raises(ValueError, match=r"settled.json is damaged .* run 01_data_preparation again"):
        workbook.start("04_x", place)
    assert workbook.start("01_x", parameters).parameters["n_test"] == 4


def test_variables_that_a_notebook_makes_are_no_parameters_of_its_next_start(parameters, tmp_path):
    """All cells run again in one kernel: a variable named as what notebook 01 settled would settle it anew."""
    place = {name: parameters[name] for name in ("run_name", "runs_dir")}
    workbook.start("01_x", parameters)
    run = workbook.start("04_x", place)
    made = {"dataset": "phantom", "seed": 0, "n_test": 4, "metrics": np.zeros(3), "run": run}
    settled = tmp_path / "r" / "data" / "settled.json"
    before = settled.read_text()
    again = workbook.start("04_x", {**place, **made})
    assert settled.read_text() == before
    assert again.given == run.given
    assert again.dataset("test").ids == run.dataset("test").ids
    workbook.start("01_x", {**parameters, "n_test": 3})  # in another kernel, in between
    assert workbook.start("04_x", {**place, **made}).parameters["n_test"] == 3
    assert workbook.start("04_x", {**place, **made, "n_test": 2}).parameters["n_test"] == 2, "given since, and meant"


def test_models_left_empty_are_those_that_were_trained(parameters):
    vit, cnn = "vit_mini16", "efficientnet_lite0"
    place = {name: parameters[name] for name in ("run_name", "runs_dir")}
    run = workbook.start("02_x", {**parameters, "models": [vit, cnn]})
    tiny = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    for name in (vit, cnn):
        run.model_folder(name).mkdir(parents=True)
        tiny.save(run.model_folder(name) / "model.keras")
        run.stamp_model(name)
    assert run.trained == [vit, cnn], "in the order of their training"
    later = workbook.start("05_x", {**place, "models": [], "model": ""})
    assert (later.parameters["models"], later.parameters["model"]) == ([vit, cnn], vit)
    assert list(later.models(cnn)) == [cnn, vit]
    chosen = workbook.start("05_x", {**place, "models": [cnn], "model": ""})
    assert (list(chosen.models()), chosen.parameters["model"]) == ([cnn], cnn)


def test_a_run_can_be_read_without_a_trace(parameters):
    made = workbook.start("01_x", parameters)
    before = sorted(made.folder.rglob("*"))
    workbook.Run("page", {**parameters, "n_test": 3}, writes=False)
    assert sorted(made.folder.rglob("*")) == before
    assert workbook.start("04_x", {"run_name": "r", "runs_dir": parameters["runs_dir"]}).parameters["n_test"] == 4


def test_results_are_written_and_recorded(parameters):
    run = workbook.start("05_x", parameters)
    figure = Figure(layout="constrained")
    figure.subplots().plot([1, 2])
    picture = run.save_figure(figure, "line", "A line.")
    assert set(picture._repr_mimebundle_()) == {"image/png", "text/plain"}
    drawn = workbook.Picture(figure)  # at the resolution that is shown
    assert (picture.width, picture.height) == pytest.approx((drawn.width, drawn.height), abs=2)
    with Image.open(run.folder / "figures" / "line.png") as png:
        assert (png.width, png.info["dpi"][0]) == pytest.approx((7.2 * 300, 300), rel=0.02)
    pdf = (run.folder / "figures" / "line.pdf").read_bytes()
    assert b"/FontFile2" in pdf, "the font is inside"
    assert b"/Type3" not in pdf
    table = pd.DataFrame({"value": range(200)})
    assert run.save_table(table, "numbers", "Numbers.") is table
    maps = {"m": np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32) * 1e-6, "zero": np.zeros((3, 8, 8))}
    run.save_maps("some", maps, ["a", "b", "c"])
    loaded = run.load_maps("some")
    np.testing.assert_allclose(loaded["m"], maps["m"], rtol=2e-3, atol=1e-9)
    assert loaded["ids"].tolist() == ["a", "b", "c"]
    assert (loaded["zero"] == 0).all()
    assert run.finish() == "05_x: figures: 1, tables: 1, files of maps: 1; written to runs/r"
    record = json.loads((run.folder / "record" / "05_x.json").read_text())
    assert [i["file"] for i in record["items"]] == ["figures/line.png", "tables/numbers.csv", "maps/some.npz"]
    assert record["finished"]
    assert (run.folder / "tables" / "numbers.parquet").exists()


def test_large_pictures_are_shown_as_jpeg():
    noise = Figure(figsize=(8, 8))
    noise.subplots().imshow(np.random.default_rng(0).random((600, 600, 3)))
    assert "image/jpeg" in workbook.Picture(noise)._repr_mimebundle_()


def test_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")

    def fails(temporary):
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_file(path, fails)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_progress_modes(monkeypatch, capsys):
    monkeypatch.setattr("xaiutils.progress.LOG_EVERY_SECONDS", 0.0)
    for mode in ("bar", "log", "off"):
        monkeypatch.setenv("XAI_PROGRESS", mode)
        assert list(progress(range(3), title="work")) == [0, 1, 2]
        assert ("work: 3 of 3" in capsys.readouterr().out) == (mode == "log")
    seen = []
    with listening(lambda done, total: seen.append((done, total))):
        list(progress(range(2)))
    assert seen == [(0, 2), (1, 2)]
    list(progress(range(2)))
    assert len(seen) == 2


def test_a_loop_within_another_one_is_not_shown_and_one_that_failed_is_no_other():
    def through(items):  # a generator in between
        yield from progress(items)

    def inner():
        return list(progress(range(2)))

    def fails():
        loop = through(range(3))
        for _ in loop:
            inner()
            raise RuntimeError

    seen, errors = [], []
    with listening(lambda done, total: seen.append((done, total))):
        for _ in range(2):
            try:
                fails()
            except RuntimeError as error:
                errors.append(error)  # whose traceback keeps the loop, a local
        inner()
        assert sum(len(inner()) for _ in progress(range(1))) == 2
    assert seen == [(0, 3), (0, None), (0, None)] * 2 + [(0, 2), (1, 2), (0, 1), (0, None), (0, None)]
