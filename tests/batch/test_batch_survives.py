"""Batches of real notebooks in real processes: killed, failing, out of disk; then the same command once more."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pandas as pd
import psutil
import pytest
import yaml
from fake_study import ALONE, NOTEBOOKS, write_notebook, write_study

from xaiutils.batch import __main__ as command
from xaiutils.batch import marker, plan, preflight
from xaiutils.batch.matrix import read_matrix
from xaiutils.batch.pack import pack
from xaiutils.workbook.run_all import ROOT

CELL = "06_alone/phantom.vit_mini16.auto.s0.grad_cam"
OTHER = "06_alone/phantom.vit_mini16.auto.s0.occlusion"
DATA = "01_data/phantom.s0"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of one data set whose cells need no data and no model. Batches in this process write no report."""
    monkeypatch.setattr(command, "write_report", lambda folder, results: folder / "report.html")
    write_study(
        tmp_path,
        notebooks={"folder": ".", "data": "01_data", "train": None, "cells": ["06_alone"]},
        datasets=["phantom"],
        methods=["grad_cam"],
    )
    write_notebook(tmp_path / "06_alone.ipynb", NOTEBOOKS["05_cell"][0], ALONE)
    return tmp_path


def arguments(folder):
    # Others may work on the package while this runs.
    return [str(folder / "m.yml"), "--runs", str(folder / "runs"), "--cores", "2", "--any-code"]


NO_REPORT = (
    "import sys; from xaiutils.batch import __main__ as command; "
    "command.write_report = lambda folder, results: folder / 'report.html'; sys.exit(command.main(sys.argv[1:]))"
)


def begin(folder, report=True):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, *(["-m", "xaiutils.batch"] if report else ["-c", NO_REPORT]), *arguments(folder)]
    with (folder / "out.txt").open("w") as out:
        return subprocess.Popen(call, stdout=out, stderr=out, env=environment, preexec_fn=hear_hangups)


def hear_hangups():
    """The tests may run under nohup; what is ignored there would be ignored by the batch too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come true in time")


def at_work(folder):
    """Logs of cells that wait, by their own attempts."""
    logs = folder.glob("runs/m/attempts/*/*grad_cam/log/06_alone.log")
    return [p for p in logs if p.exists() and "at work" in p.read_text()]


def times(folder, below="runs/m"):
    """When each job that is done was done."""
    return {
        str(p.parent.relative_to(folder / below)): p.stat().st_mtime_ns for p in (folder / below).glob("*/*/done.json")
    }


def kill(process):
    """Kill a batch alone, and see that all that it started ends by itself."""
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("ipykernel_launcher" in " ".join(p.cmdline()) for p in family)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, f"still at work: {alive}"


def test_a_killed_kernel_a_second_batch_and_a_killed_batch(study, capsys):
    (study / "wait").touch()
    process = begin(study)
    (log,) = wait_for(lambda: at_work(study))
    kernels = [p for p in psutil.Process(process.pid).children(recursive=True) if "ipykernel_launcher" in p.cmdline()]
    kernels[0].kill()
    again = wait_for(lambda: [other for other in at_work(study) if other != log])
    assert len(again) == 1, "a dead kernel is tried once more"
    assert "DeadKernelError" in (study / "out.txt").read_text()
    assert command.main(arguments(study)) == command.LOCKED
    assert f"is in use by process {process.pid} on" in capsys.readouterr().err
    kill(process)
    before = times(study)
    assert set(before) == {DATA}, "what was cut counts as done"
    (study / "wait").unlink()
    assert command.main(arguments(study)) == command.DONE
    assert "2 jobs, 1 done, 1 to do" in capsys.readouterr().out
    assert before.items() <= times(study).items(), "something was done twice"
    assert not marker.damage(study / "runs/m" / CELL, marker.read_marker(study / "runs/m" / CELL))
    assert not list((study / "runs/m/attempts").iterdir())


def test_a_batch_that_is_asked_to_end_says_so_and_can_go_on(study, capsys):
    (study / "wait").touch()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        shutil.rmtree(study / "runs/m/attempts", ignore_errors=True)  # of the last batch: its logs say "at work", too
        process = begin(study, report=number == signal.SIGTERM)
        wait_for(lambda: at_work(study))
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(240) == 128 + number  # it writes the report first
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, f"still at work: {alive}"
        out = (study / "out.txt").read_text()
        assert f"ended by {number.name}; the same command goes on from here" in out
        assert "1 of 2 jobs done" in out
        assert "Traceback" not in out
        with marker.lock(study / "runs/m/lock", "the batch"):
            pass
        assert set(times(study)) == {DATA}
    (study / "wait").unlink()
    assert command.main(arguments(study)) == command.DONE
    assert "2 jobs, 1 done, 1 to do" in capsys.readouterr().out


def test_a_notebooks_name_is_no_command(study, capfd):
    name = '6 it\'s $(touch pwned) `touch pwned`; touch pwned & "x" #'
    (study / "06_alone.ipynb").rename(study / f"{name}.ipynb")
    matrix = yaml.safe_load((study / "m.yml").read_text())
    matrix["notebooks"]["cells"] = [name]
    (study / "m.yml").write_text(yaml.safe_dump(matrix))
    assert command.main(arguments(study)) == command.DONE, capfd.readouterr()
    assert len(times(study)) == 2
    assert not list(study.rglob("pwned"))


def test_a_kill_while_another_cell_fails(study, capfd):
    matrix = (study / "m.yml").read_text().replace("- grad_cam\n", "- grad_cam\n- occlusion\n")
    (study / "m.yml").write_text(matrix)
    (study / "wait").touch()
    (study / "fail").touch()
    process = begin(study)
    wait_for(lambda: at_work(study) and (study / "runs/m/failed" / OTHER / "failed.json").exists())
    kill(process)
    before = times(study)
    assert set(before) == {DATA}
    (study / "wait").unlink()
    assert command.main(arguments(study)) == command.FAILED
    out = capfd.readouterr().out
    assert "3 jobs, 1 done, 2 to do" in out
    assert f"failed: {OTHER}: RuntimeError: no luck" in out
    assert "2 of 3 jobs done" in out
    (study / "fail").unlink()
    before = times(study)
    assert set(before) == {DATA, CELL}
    assert command.main(arguments(study)) == command.DONE
    assert "3 jobs, 2 done, 1 to do" in capfd.readouterr().out
    assert before.items() <= times(study).items(), "something was done twice"


@pytest.mark.skipif(
    not (sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount")), reason="mounting needs root on Linux"
)
def test_a_full_disk_leaves_nothing_that_counts_and_the_batch_goes_on_later(study, capfd, monkeypatch):
    disk = study / "runs"
    disk.mkdir()
    (study / "fill").touch()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let its root mount a tmpfs")
    try:
        assert command.main(arguments(study)) == command.INVALID
        assert "are needed below" in capfd.readouterr().err
        monkeypatch.setattr(command, "full_disk", lambda *_: [])  # as if the estimate had been wrong
        assert command.main(arguments(study)) == command.FAILED
        assert f"failed: {CELL}: OSError: [Errno 28]" in capfd.readouterr().out
        assert json.loads((disk / "m/failed" / CELL / "failed.json").read_text())["error"].startswith("OSError")
        before = times(study)
        assert set(before) == {DATA}
        assert shutil.disk_usage(disk).free > 5e6, "what failed keeps the disk full"
        (study / "fill").unlink()
        assert command.main(arguments(study)) == command.DONE
        assert before.items() <= times(study).items()
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("forked")
def test_the_smoke_matrix_made_smaller(tmp_path, capfd):
    """The real notebooks: 2 data sets and 2 models of which one meets both, 3 methods; fewer images than shipped."""
    matrix = yaml.safe_load((ROOT / "matrices" / "smoke.yml").read_text())
    matrix["exclude"].append({"dataset": "digits", "model": "vit_mini16"})
    matrix["common"].update(n_images=6, n_faithfulness=2, more=False)
    path = tmp_path / "smoke.yml"
    path.write_text(yaml.safe_dump(matrix))
    call = [str(path), "--runs", str(tmp_path), "--cores", "2", "--any-code"]
    assert command.main(call) == command.DONE, capfd.readouterr().out[-3000:]
    out, folder = capfd.readouterr().out, tmp_path / "smoke"
    assert "10 of 10 jobs done" in out
    jobs = plan.jobs(read_matrix(path)[0])
    left = plan.survey(folder, jobs, any_code=True).bytes
    assert not plan.survey(folder, jobs, any_code=True).why
    by_name = {one.name: one for one in jobs}
    for one in jobs:
        assert left[one.name] <= preflight.estimate(one, by_name.get(one.data)), (
            f"{one.name} is larger than was estimated"
        )
    models = pd.read_csv(folder / "report" / "models.csv")
    assert len(models) == 3
    assert models[["accuracy", "accuracy low", "accuracy high", "AUC", "AUC low", "AUC high"]].notna().all(axis=None)
    scores = pd.read_csv(folder / "report" / "scores.csv")
    known = scores[scores["method"].isin(["vanilla_gradients", "grad_cam", "occlusion"])]
    assert set(known["weights"]) == {"trained", "random"}
    assert known.groupby(["dataset", "model", "metric", "reading", "weights"]).size().eq(3).all()
    best = pd.read_csv(folder / "report" / "best.csv")
    assert set(best["metric"]) >= {"iou", "pointing_game", "insertion_auc", "deletion_auc"}
    page = (folder / "report.html").read_text()
    assert len(re.findall('<img [^>]*src="data:image/', page)) == 8, (
        "ranks of each data set, model and reading, and two grids"
    )
    record = json.loads((folder / jobs[-1].name / "record" / "05_quantitative_comparison.json").read_text())
    assert record["finished"]
    assert {"python", "platform", "cores", "gpus", "versions", "git_commit"} <= set(record["environment"])
    assert record["parameters"]["seed"] == 0
    assert not list(folder.rglob("features")), "caches of training are left"
    before = times(tmp_path / "smoke", ".")
    assert command.main(call) == command.DONE
    assert "10 jobs, 10 done, 0 to do" in capfd.readouterr().out
    assert times(tmp_path / "smoke", ".") == before
    with zipfile.ZipFile(pack(folder)) as archive:
        names = set(archive.namelist())
    assert {f"smoke/{name}" for name in ("report.html", "report.md", "matrix.yml", "CONTENTS.md")} <= names
    assert sum(name.endswith(".ipynb") for name in names) == 11, "a notebook of each job, and the report's"
