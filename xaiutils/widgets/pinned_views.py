"""Pinned views (findings): kept as a picture and as JSON with all that is needed to make it again."""

import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file, write_text
from xaiutils.text import html
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.parameter_controls import Guard
from xaiutils.widgets.scene import Scene
from xaiutils.widgets.scene_drawing import PRINT_DPI, Drawing, draw_scene
from xaiutils.widgets.view_settings import View

FORMAT = 1
CARDS, CARD_WIDTH = 6, 210  # findings that the panel shows, and the width of each in pixels
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Finding:
    """A kept view: its ``name``, the paths of its ``picture`` (PNG) and ``record`` (JSON), and the record's content."""

    name: str
    picture: Path
    record: Path
    facts: Mapping[str, Any]

    @property
    def view(self) -> View:
        """The view that was kept."""
        return View.from_json(self.facts["view"])


class Board:
    """The findings of a run, in a folder.

    Args:
        folder: where they are kept, such as ``runs/default/findings``; it is made when the first one is.
        context: more facts for every record, such as the run's parameters.
    """

    def __init__(self, folder: str | Path, context: Mapping[str, Any] | None = None):
        self.folder, self.context = Path(folder), dict(context or {})

    def findings(self) -> list[Finding]:
        """All of them, oldest first. A file that cannot be read is left out."""
        found = []
        for record in self.folder.glob("*.json"):
            try:
                found.append(read_finding(record))
            except (ValueError, OSError):
                continue
        return sorted(found, key=lambda f: (f.facts.get("created", ""), f.name))

    def pin(self, scene: Scene, computer: SceneComputer, name: str = "", note: str = "") -> Finding:
        """Keep a scene under ``name`` (letters, digits, ., - and _; empty: the next free number), in place of a finding
        of that name. Raises ValueError for another name, or where the model has changed since the scene was computed;
        TypeError for parameters that JSON cannot hold."""
        computer.check_current(scene)
        if name and not _NAME.fullmatch(name):
            raise ValueError(f"name={name!r} is not a file name; use letters, digits, ., - and _.")
        text = json.dumps(self._facts(scene, computer, note), indent=1)
        png = draw_scene(scene).png(PRINT_DPI)
        name = name or claim_name(self.folder, "finding")
        replace_file(self.folder / f"{name}.png", lambda temporary: temporary.write_bytes(png))
        return read_finding(write_text(self.folder / f"{name}.json", text))

    def _facts(self, scene: Scene, computer: SceneComputer, note: str) -> dict[str, Any]:
        """What the record holds."""
        from xaiutils.workbook import environment

        ds = computer.dataset(scene.view)
        view = replace(scene.view, dataset=scene.view.dataset or next(iter(computer.datasets)))
        before, after = (p.astype(float).round(6).tolist() for p in (scene.before, scene.probabilities))
        return {
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "note": note,
            "view": view.to_json(),
            "dataset": {"name": ds.name, "split": ds.split, "images": len(ds), "size": ds.image_size},
            "image": {
                "id": scene.image_id,
                "class": scene.truth,
                "pixels": _digest([scene.original]),
            },
            "weights": _digest(computer.model(view).get_weights()),
            "other_weights": {m: _digest(computer.models[m].get_weights()) for m in {c.model for c in view.maps} if m},
            "target": scene.class_names[scene.target],
            "probabilities": {
                "original": dict(zip(scene.class_names, before, strict=True)),
                "transformed": dict(zip(scene.class_names, after, strict=True)),
            },
            "numbers": json.loads(scene.numbers.to_json(orient="records")),
            "errors": {i: found.error for i, found in enumerate(scene.maps, 1) if found.error},
            **self.context,
            "environment": environment(),
        }


def read_finding(record: Path) -> Finding:
    """A finding from its JSON. Raises OSError, or ValueError for a file that is none."""
    facts = json.loads(record.read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(f"{record} is no finding of format {FORMAT}.")
    return Finding(record.stem, record.with_suffix(".png"), record, facts)


def claim_name(folder: Path, stem: str) -> str:
    """``stem``_001 and so on: the first name without a PNG or JSON in ``folder``, of which an empty PNG is made.

    So that two panels of one run, each in a process of its own, never take the same name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(1, 10**6):
        name = f"{stem}_{k:03d}"
        if not (folder / f"{name}.json").exists():
            try:
                (folder / f"{name}.png").touch(exist_ok=False)
            except FileExistsError:
                continue
            return name
    raise ValueError(f"{folder} holds all names from {stem}_001 on.")


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def recreate(
    finding: Finding | str | Path,
    models: Mapping[str, keras.Model],
    datasets: ImageDataset | Mapping[str, ImageDataset],
    batch_size: int = 32,
) -> tuple[Scene, Drawing]:
    """Compute and draw a finding again, from its JSON.

    ``finding`` is the path of the JSON. Warns where the model's weights or the image are not those of the finding.
    Raises ValueError where the model, the data set or the image is missing, and what `xaiutils.explain` raises.
    """
    if not isinstance(finding, Finding):
        finding = read_finding(Path(finding))
    if isinstance(datasets, ImageDataset):
        datasets = {finding.view.dataset: datasets}
    computer = SceneComputer(models, datasets, batch_size)
    view, image = finding.view, finding.facts["image"]
    ds = computer.dataset(view)
    if not (view.image < len(ds) and ds.ids[view.image] == image["id"]):  # another sample of the same data
        if image["id"] not in ds.ids:
            raise ValueError(f"the data set {view.dataset!r} has no image {image['id']!r}, which {finding.name} shows.")
        view = replace(view, image=ds.ids.index(image["id"]))
    changed = []
    if _digest([ds.pixels[view.image].astype(np.float32)]) != image["pixels"]:
        changed.append("the image has other pixels")
    if _digest(computer.model(view).get_weights()) != finding.facts["weights"]:
        changed.append(f"{view.model} has other weights")
    changed += [
        f"{name} has other weights"
        for name, digest in finding.facts.get("other_weights", {}).items()
        if _digest(computer.model(replace(view, model=name)).get_weights()) != digest
    ]
    if changed:
        warnings.warn(f"{finding.name} cannot be the same: {' and '.join(changed)}.", stacklevel=2)
    scene = computer.scene(view, strict=False)
    return scene, draw_scene(scene)


class PinnedCards:
    """The newest findings in ``box``, each with a button.

    Args:
        show_again: called with the view of the finding whose button is pressed.
        guard: wraps the handlers of events.
    """

    def __init__(self, show_again: Callable[[View], None], guard: Guard):
        self._show_again, self._guard = show_again, guard
        self.box = widgets.HBox(layout=widgets.Layout(flex_flow="row wrap", grid_gap="8px"))

    def show(self, findings: Sequence[Finding]) -> None:
        """Show the last of the findings, the newest first."""
        old = self.box.children
        self.box.children = tuple(self._card(finding) for finding in findings[: -CARDS - 1 : -1])
        for card in old:
            close_all(card)

    def _card(self, finding: Finding) -> widgets.Widget:
        picture = widgets.Image(value=_small_jpeg(finding.picture, 2 * CARD_WIDTH), format="jpeg", width=CARD_WIDTH)
        text = html(finding.facts["note"] or finding.view.maps[0].title)
        label = widgets.HTML(f'<div class="xai-cost"><b>{html(finding.name)}</b> {text}</div>')
        again = widgets.Button(description="Show again", tooltip=f"set the panel to {finding.name}")
        again.on_click(self._guard(lambda _: self._show_again(finding.view)))
        card = widgets.VBox([picture, label, again])
        card.add_class("xai-card")
        return card


def _small_jpeg(path: Path, width: int) -> bytes:
    """A picture file at most ``width`` pixels wide, as JPEG; empty where the file is missing."""
    if not path.exists():
        return b""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((width, width))
    file = io.BytesIO()
    small.save(file, "jpeg", quality=88)
    return file.getvalue()


def close_all(widget: widgets.Widget) -> None:
    """Close a widget and all in it: an open one lives as long as the kernel."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    widget.close()
