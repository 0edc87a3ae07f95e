"""Models of users in matrices: by path or with options, bound to what the file is, refused before anything runs."""

import pytest
import yaml
from fake_study import write_study

from xaiutils.backend import keras
from xaiutils.batch import __main__ as command
from xaiutils.batch import plan, preflight
from xaiutils.batch.matrix import read_matrix
from xaiutils.workbook.own_models import file_digest


def save(path, units=2):
    inputs = keras.Input((64, 64, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 5, strides=4, activation="relu")(inputs))
    keras.Model(inputs, keras.layers.Dense(units, activation="softmax")(x)).save(path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "mine.keras")


def test_an_entry_is_a_path_or_has_options(tmp_path, file):
    entries = [str(file), {"path": str(file), "name": "ours", "scaling": "0-1", "epochs": 3}, "vit_mini16"]
    matrix, problems = read_matrix(write_study(tmp_path, models=entries, datasets=["phantom"]))
    assert not problems
    assert [entry.name for entry in matrix.models] == ["mine", "ours", "vit_mini16"]
    jobs = {job.name: job for job in plan.jobs(matrix)}
    cell = jobs["05_cell/phantom.ours.auto.s0.grad_cam"]
    expected = {"name": "ours", "path": str(file), "scaling": "0-1", "digest": file_digest(file)}
    assert cell.parameters["models"] == [expected]
    assert jobs["02_train/phantom.ours.auto.s0"].parameters["epochs"] == 3
    assert jobs["05_cell/phantom.vit_mini16.auto.s0.grad_cam"].parameters["models"] == ["vit_mini16"]


def test_a_changed_file_is_another_model(tmp_path):
    file = save(tmp_path / "mine.keras")
    study = write_study(tmp_path, models=[str(file)])
    before = plan.jobs(read_matrix(study)[0])
    save(file, units=3)
    after = plan.jobs(read_matrix(study)[0])
    assert [a.name for a in before] == [b.name for b in after]
    changed = {a.kind for a, b in zip(before, after, strict=True) if a.parameters != b.parameters}
    assert changed == {"train", "cell"}


def test_what_does_not_fit_is_refused_before_anything_runs(tmp_path, file, capsys):
    entries = ["missing.keras", {"path": str(file), "skaling": "0-1"}]
    _, problems = read_matrix(write_study(tmp_path, models=entries))
    assert "there is no missing.keras" in problems[0]
    assert "unknown option 'skaling'" in problems[1]
    matrix, _ = read_matrix(write_study(tmp_path, models=[str(file)], common={"image_size": 96}))
    said = preflight.unfit_models(matrix)
    assert "models/mine with datasets/phantom: image_size=96, but mine takes 64 x 64 pixels" in said[0]


def test_methods_that_do_not_suit_are_counted_and_named(tmp_path, file, capsys):
    study = write_study(tmp_path, models=[str(file)], methods=["grad_cam", "raw_attention"], datasets=["phantom"])
    assert command.main([str(study), "--dry-run", "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "mine: 1 left out: raw_attention (" in said
    assert "3 jobs" in said, "data, model, and the cell of grad_cam"
    assert yaml.safe_load(study.read_text())["methods"] == ["grad_cam", "raw_attention"]
