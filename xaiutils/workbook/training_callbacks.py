"""What can be watched while a model trains: its attribution maps, and its curves. For `train`'s ``callbacks``."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xaiutils.attribution import explain_all, resolve
from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.datasets.image_dataset import strata
from xaiutils.evaluation.metrics.localisation import RELEVANCE_MASS
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.files import replace_file
from xaiutils.map_reading import read_maps
from xaiutils.plots import attribution_grid, training_curves
from xaiutils.registry import check_integer
from xaiutils.training import Callback, StopTraining
from xaiutils.workbook import Picture

__all__ = ["AttributionCallback", "LiveCurve"]


class AttributionCallback(Callback):
    """Draws the maps of chosen images every few epochs, and measures how much of them lies outside the evidence.

    Args:
        ds: the few images. Their labels are the classes that are explained: of several the rarest that an image has,
            of a measured value the value.
        folder: gets ``maps_epoch_0001.png`` and so on, and ``tensorboard/`` with the same pictures and the numbers of
            the history's row (``tensorboard --logdir FOLDER``).
        methods, parameters: of the maps, as `explain_all` takes them.
        every: epochs from one drawing to the next, at least 1; the first epoch is drawn.
        masks: where maps may lie, bool ``(n, height, width)``: the breast, say; None: ``ds.masks``, the evidence. Where
            there are any, the history gets a column ``outside_METHOD``: 1 less `relevance_mass`, which is the part of
            the map's sum that lies in the mask, read as the method declares (`Method.own_reading`: of gradients the
            magnitude), as a mean over the images that have one; NaN in epochs that are not drawn.
        stop_outside: ends the run when the first method's maps have more than this part outside, in ``patience``
            drawings in a row; None: never. A model that looks elsewhere after some epochs seldom comes back.
        batch_size: images in one pass.

    Raises (when made): ValueError, TypeError or UnknownNameError: an argument or a method is not valid.
    """

    def __init__(
        self,
        ds: ImageDataset,
        folder: str | Path,
        methods: Sequence[str] = ("grad_cam",),
        *,
        parameters: Mapping[str, Mapping] | None = None,
        every: int = 1,
        masks: np.ndarray | None = None,
        stop_outside: float | None = None,
        patience: int = 3,
        batch_size: int = 32,
    ):
        masks = ds.masks if masks is None else np.asarray(masks, bool)
        if len(ds) == 0 or not methods:
            raise ValueError("ds and methods must have at least one entry.")
        ds.check_single_label("a callback that explains")
        check_integer("every", every, 1)
        check_integer("patience", patience, 1)
        if masks is not None and masks.shape != ds.pixels.shape[:3]:
            raise ValueError(f"masks has shape {masks.shape}; expected {ds.pixels.shape[:3]}, one mask for each image.")
        if stop_outside is not None and (masks is None or not masks.any() or not 0 <= stop_outside < 1):
            raise ValueError(
                f"stop_outside={stop_outside!r} needs masks of the evidence, and to be at least 0, below 1."
            )
        chosen = resolve(methods, parameters)
        self._methods = {name: method for name, (method, _) in chosen.items()}
        asked = {name: (method, (parameters or {}).get(name, {})) for name, (method, _) in chosen.items()}
        self._signed = {name: method.is_signed(given) for name, (method, given) in asked.items()}
        self._readings = {name: method.own_reading(given) for name, (method, given) in asked.items()}
        self._ds, self._folder, self._parameters, self._every = ds, Path(folder), parameters, every
        self._masks, self._stop_outside, self._patience = masks, stop_outside, patience
        self._batch_size, self._drawn_outside = batch_size, 0
        self._writer: Any = None  # of TensorBoard, once there is something to write

    def on_epoch_end(self, epoch: int, model: keras.Model, row: dict[str, Any]) -> None:
        masks = self._masks
        measured = masks is not None and masks.any()
        if measured:
            row |= {f"outside_{name}": np.nan for name in self._methods}
        if (epoch - 1) % self._every:
            return
        ds = self._ds
        # A value is one unit, whose side 1 is what it says.
        classes = np.minimum(strata(ds.labels), len(ds.class_names) - 1) if len(ds.class_names) > 1 else 1
        maps = explain_all(model, ds.images, classes, list(self._methods), self._batch_size, self._parameters)
        for name, found in maps.items():
            if masks is None or not measured:
                break
            inside = RELEVANCE_MASS.compute(Case(read_maps(found, self._readings[name]), masks))
            if np.isfinite(inside).any():
                row[f"outside_{name}"] = float(1 - np.nanmean(inside))
        figure = attribution_grid(
            ds.images,
            maps,
            self._signed,
            ds.label_texts(),
            {name: name if name != method.name else method.title for name, method in self._methods.items()},
            self._masks,
            f"epoch {epoch}",
        )
        replace_file(self._folder / f"maps_epoch_{epoch:04d}.png", lambda path: figure.savefig(path, dpi=120))
        self._log(epoch, figure, row)
        if measured and self._stop_outside is not None:
            outside = row[f"outside_{next(iter(self._methods))}"]
            self._drawn_outside = self._drawn_outside + 1 if outside > self._stop_outside else 0
            if self._drawn_outside >= self._patience:
                raise StopTraining(f"{outside:.0%} of the maps lie outside the evidence in epoch {epoch}")

    def _log(self, epoch: int, figure: Figure, row: dict[str, Any]) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder / "tensorboard"))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())[..., :3]
        size = [str(picture.shape[1]), str(picture.shape[0])]
        with self._writer.as_default(step=epoch):
            _write("maps", "images", tf.stack([*size, tf.io.encode_png(picture)]))
            for name, value in row.items():
                if isinstance(value, float) and np.isfinite(value):
                    _write(name, "scalars", tf.constant(value, tf.float32))
        self._writer.flush()

    def on_train_end(self, history: pd.DataFrame) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _write(name: str, plugin: str, values: tf.Tensor) -> None:
    """A summary as `tf.summary.image` and `tf.summary.scalar` write it, which need TensorBoard installed to write."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    metadata.data_class = {"scalars": 1, "images": 3}[plugin]  # DATA_CLASS_SCALAR, DATA_CLASS_BLOB_SEQUENCE
    tf.summary.write(name, values, metadata=metadata)


class LiveCurve(Callback):
    """A figure of the curves below the cell that grows while the model trains. It shows nothing where nobody looks:
    outside a notebook, in CI, and in unattended runs, which set the environment variable ``XAI_PROGRESS``.

    Args:
        title: above the curves, the model's name.
        seconds: at least so long from one drawing to the next.
    """

    def __init__(self, title: str = "model", seconds: float = 1.0):
        self._title, self._seconds = title, seconds
        self._rows: list[dict[str, Any]] = []
        self._drawn, self._handle = -np.inf, None

    def on_epoch_end(self, epoch: int, model: keras.Model, row: dict[str, Any]) -> None:
        self._rows.append(dict(row))
        if time.monotonic() - self._drawn >= self._seconds:
            # Which epoch is kept, by the recipe's monitor, is known at the end.
            self._show(pd.DataFrame(self._rows).assign(kept=False))
            self._drawn = time.monotonic()

    def on_train_end(self, history: pd.DataFrame) -> None:
        self._show(history)
        self._rows, self._drawn, self._handle = [], -np.inf, None

    def _show(self, history: pd.DataFrame) -> None:
        if not _someone_looks():
            return
        from IPython.display import display

        picture = Picture(training_curves({self._title: history}))
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)


def _someone_looks() -> bool:
    mode = os.environ.get("XAI_PROGRESS", "bar")
    return mode == "bar" and not os.environ.get("CI") and "ipykernel" in sys.modules
