"""A small study for the tests of batches: three notebooks without TensorFlow, and a matrix over them."""

import nbformat
import yaml

COMMON = 'dataset: str = "phantom"\nimage_size: int = 64\nn_train: int = 6\nseed: int = 0\nrun_name: str = "x"\n'
START = 'import os, pathlib\nfolder = pathlib.Path(os.environ["XAI_RUNS"]) / run_name\n'
DATA = START + (
    'copy = folder / "data" / "test-1"\ncopy.mkdir(parents=True)\n'
    '(copy / "checks.json").write_text(f"{dataset} {n_train} {seed}")'
)
TRAIN = START + (
    'assert (pathlib.Path(os.environ["XAI_BATCH_DATA"]) / "test-1" / "checks.json").exists()\n'
    'model = folder / "models" / models[0]\nmodel.mkdir(parents=True)\n'
    '(model / "model.keras").write_text(f"{dataset} {models} {seed} {epochs}")'
)
CELL = START + (
    'weights = (pathlib.Path(os.environ["XAI_BATCH_MODELS"]) / models[0] / "model.keras").read_text()\n'
    '(folder / "tables").mkdir()\n(folder / "tables" / "x.csv").write_text(f"{weights},{methods},{n_images}")\n'
    "print(weights)"
)
NOTEBOOKS = {
    "01_data": (COMMON, DATA),
    "02_train": (COMMON + 'models: list = ["a"]\nrecipe: str = "auto"\nepochs: int = 1\n', TRAIN),
    "05_cell": (
        COMMON + 'models: list = ["a"]\nmethods: list = ["b"]\nmethod_parameters: dict = {}\nn_images: int = 2\n',
        CELL,
    ),
}
# A cell that needs nothing of others, and waits, fails or fills the disk as files beside it say.
ALONE = START + (
    "import time\nprint('at work', flush=True)\n"
    "if pathlib.Path('fail').exists() and methods == ['occlusion']:\n    raise RuntimeError('no luck')\n"
    "if pathlib.Path('fill').exists():\n    (folder / 'maps').mkdir()\n"
    "    (folder / 'maps' / 'x.npz').write_bytes(bytes(20_000_000))\n"
    "while pathlib.Path('wait').exists() and methods == ['grad_cam']:\n    time.sleep(0.2)"
)
MATRIX = {
    "notebooks": {"folder": ".", "data": "01_data", "train": "02_train", "cells": ["05_cell"]},
    "datasets": ["phantom", "digits"],
    "models": ["vit_mini16"],
    "methods": ["grad_cam", "occlusion"],
    "common": {"image_size": 64, "n_train": 10},
}


def write_notebook(path, parameters, source):
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell(parameters)
    cell.metadata["tags"] = ["parameters"]
    notebook.cells += [cell, nbformat.v4.new_code_cell(source)]
    nbformat.write(notebook, path)


def write_study(folder, **changes):
    """The notebooks and ``m.yml`` in ``folder``; ``changes`` are keys of the matrix. Returns the matrix' path."""
    for name, (parameters, source) in NOTEBOOKS.items():
        write_notebook(folder / f"{name}.ipynb", parameters, source)
    return write_matrix(folder, **changes)


def write_matrix(folder, **changes):
    path = folder / "m.yml"
    path.write_text(yaml.safe_dump({**MATRIX, **changes}, sort_keys=False))
    return path
