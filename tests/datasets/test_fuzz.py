"""Some hundred damaged files for every reader, with fixed seeds; ``python tests/fuzz.py`` does more."""

import subprocess
import sys
from pathlib import Path

import fuzz
import numpy as np
import pytest

FILES = 40  # for each reader


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_a_damaged_file_is_read_or_refused_by_name(tmp_path, reader):
    fuzz.prepare_folder(reader, tmp_path)
    outcomes = []
    for number in range(FILES):
        path = fuzz.make_input(reader, 1, number, tmp_path)
        outcome, words = fuzz.attempt(reader, path)
        assert outcome in ("read", "refused"), f"{reader} {number}: {words}"
        outcomes.append(outcome)
        path.unlink()
    assert {"read", "refused"} == set(outcomes)


def test_changes_follow_their_seed(tmp_path):
    once, again = (fuzz.make_input("dicom", 3, 50, tmp_path).read_bytes() for _ in range(2))
    assert once == again
    assert fuzz.make_input("dicom", 3, 58, tmp_path).read_bytes() != once
    raw = fuzz.samples_of("npz")[0][1]
    rng = np.random.default_rng(0)
    assert len({fuzz.mutate(raw, rng) for _ in range(20)}) > 15


def test_a_worker_that_dies_or_hangs_is_counted(tmp_path, monkeypatch):
    path = fuzz.make_input("mnist", 0, 0, tmp_path)
    monkeypatch.setattr(fuzz, "SECONDS", 1.0)
    for code, expected in (("import os; os.abort()", "killed"), ("import time; time.sleep(60)", "hung")):
        worker = fuzz.Worker("mnist")
        worker.process = subprocess.Popen(
            [sys.executable, "-c", f"input(); {code}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert worker.ask(Path(path))[0] == expected
