"""The panel of notebook 03 and of ``make app``: one image, up to three methods, all their controls, and the numbers.

Modules, lowest first: `view_settings` (what a picture depends on), `scene` (what it shows), `numbers_table`,
`result_cache` and `compute_scene` (computing it), `scene_drawing`, `background_worker` (the thread behind the panel),
`parameter_controls`, `map_controls` and `view_controls`, `browser_widgets` (the parts with scripts of their own),
`image_picker`, `pinned_views` (findings), `status_line`, `explorer` (all together), `app` (the same panel in a page of
its own).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from xaiutils import plots
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.explorer import Explorer
from xaiutils.widgets.parameter_controls import control, read_control, write_control
from xaiutils.widgets.pinned_views import Board, Finding, recreate
from xaiutils.widgets.scene import Scene, truths
from xaiutils.widgets.scene_drawing import draw_scene
from xaiutils.widgets.view_settings import MethodChoice, View

__all__ = [
    "Board",
    "Explorer",
    "Finding",
    "MethodChoice",
    "Scene",
    "View",
    "control",
    "draw",
    "read_control",
    "recreate",
    "thumbnails",
    "write_control",
]


@dataclass(frozen=True)
class Shown:
    """A drawn `View`: its figure, and the `Scene` with its images, maps, probabilities and numbers."""

    figure: Figure
    scene: Scene


def draw(
    view: View,
    models: Mapping[str, keras.Model],
    datasets: ImageDataset | Mapping[str, ImageDataset],
    batch_size: int = 32,
) -> Shown:
    """Compute and draw a view, as the panel does. Raises what `xaiutils.explain` raises."""
    if isinstance(datasets, ImageDataset):
        datasets = {view.dataset: datasets}
    scene = SceneComputer(models, datasets, batch_size).scene(view)
    return Shown(draw_scene(scene).figure, scene)


def thumbnails(ds: ImageDataset, indices: Sequence[int]) -> Figure:
    """Numbered small images, to choose from."""
    chosen = ds.select(list(indices))
    titles = [f"{i}: {said}" for i, said in zip(indices, truths(chosen), strict=True)]
    return plots.image_grid(chosen, columns=8, titles=titles)
