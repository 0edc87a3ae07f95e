"""What the tests of the panel in a browser need: JupyterLab, the page of ``make app``, and a run of tiny models."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.widgets.app import launch
from xaiutils.workbook import Run
from xaiutils.workbook.parameters import PARAMETERS
from xaiutils.workbook.run_all import NOTEBOOKS

SIZE, TOKEN = 64, "tests"
_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}


def tiny_run(runs: Path) -> Run:
    """A run folder with two small models on 64 x 64 phantoms: a CNN and a ViT of 4 x 4 patches, of random weights."""
    parameters = {p.name: p.default for p in PARAMETERS.values()}
    parameters |= {"image_size": SIZE, "n_train": 12, "n_val": 12, "n_test": 30, "seed": 1, "run_name": "default"}
    parameters |= {"runs_dir": str(runs)}
    made = Run("02_train_models", parameters)
    for split in ("val", "test"):
        made.dataset(split)
    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    for k, width in enumerate((8, 8, 12)):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", activation="relu", name=f"conv{k + 1}")(x)
    x = keras.layers.Dense(2, name="logits")(keras.layers.GlobalAveragePooling2D()(x))
    small = keras.Model(inputs, keras.layers.Softmax(name="probabilities")(x))
    vit = xai.build_model("vit_mini16", n_classes=2, image_size=SIZE, weights=None)
    for name, model in (("efficientnet_lite0", small), ("vit_mini16", vit)):  # names that the notebook knows
        made.model_folder(name).mkdir(parents=True)
        model.save(made.model_folder(name) / "model.keras")
        made.stamp_model(name)
    return made


@dataclass
class Server:
    """A server at ``url``, whose settings lie in ``folder``."""

    url: str
    folder: Path
    process: int = 0

    def settings(self, name: str, values: dict) -> None:
        """Write settings of JupyterLab; pages that are opened from now on have them."""
        path = self.folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


@contextmanager
def serving(command: list[str], environment: dict[str, str], ready: str, log: Path) -> Iterator[int]:
    """A server that runs within the block, as its process; ``ready`` is an address that answers when it is up."""
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent)
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    urllib.request.urlopen(ready, timeout=2).read(1)
                    break
                except urllib.error.HTTPError:
                    break  # it answers
                except OSError as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"{command[2]} does not answer: {log.read_text()[-3000:]}") from error
                    time.sleep(0.3)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(folder: Path, runs: Path, kernels: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server that shares nothing with the user's own Jupyter; ``kernels``: the variables of
    `forked_kernels`, if its kernels come from there."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "XAI_STRICT", "XAI_PROGRESS"))}
    own = {f"JUPYTER_{k}_DIR": str(folder / k.lower()) for k in ("CONFIG", "RUNTIME", "DATA")}
    lab = {f"JUPYTERLAB_{k.upper()}_DIR": str(folder / k) for k in ("settings", "workspaces")}
    return {**kept, **own, **lab, "IPYTHONDIR": str(folder / "ipython"), "XAI_RUNS": str(runs), **kernels}


@contextmanager
def lab_server(folder: Path, run: Run, kernels: Mapping[str, str]) -> Iterator[Server]:
    """JupyterLab at a copy of notebook 03 that reads the tiny run."""
    notebook = nbformat.read(NOTEBOOKS / "03_attribution_explorer.ipynb", as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    taken = {line.split(":")[0] for line in cell.source.splitlines()} & set(run.parameters)
    cell.source = "\n".join(
        f"{name} = {run.parameters[name]!r}" for name in sorted(taken - {"method_parameters", "methods"})
    )
    cell.source += "\nmethod_parameters = {}"
    nbformat.write(notebook, folder / "explorer.ipynb")
    server = Server(f"http://127.0.0.1:{free_port()}", folder)
    for name, values in _SETTINGS.items():
        server.settings(name, values)
    port = server.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", "--allow-root"]
    command += [
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.terminals_enabled=False",
        "--LabApp.extension_manager=readonly",
    ]
    with serving(
        command, environment(folder, run.folder.parent, kernels), f"{server.url}/api?token={TOKEN}", folder / "lab.log"
    ):
        yield server


@contextmanager
def app_server(folder: Path, run: Run, idle_seconds: int = 120) -> Iterator[Server]:
    """The page of ``make app``; `TOKEN` lets in."""
    server = Server(f"http://127.0.0.1:{free_port()}", folder)
    own = environment(folder, run.folder.parent, {})
    added = {**launch.environment("default", run.folder.parent), **own, "XAI_APP_TOKEN": TOKEN}
    added["JUPYTER_PATH"] = str(launch.FOLDER)
    command = launch.command(int(server.url.rsplit(":", 1)[1]), browser=False, idle_seconds=idle_seconds)
    with serving(command, added, f"{server.url}/voila/static/", folder / "voila.log") as server.process:
        yield server
