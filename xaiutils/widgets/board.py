"""Findings: views that are kept as a picture and as JSON with all that is needed to make it again."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file, write_text
from xaiutils.widgets.drawing import PRINT_DPI, Drawing, draw_scene
from xaiutils.widgets.scene import Scene, Studio
from xaiutils.widgets.view import View

FORMAT = 1
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
                found.append(self._read(record))
            except (ValueError, OSError):
                continue
        return sorted(found, key=lambda f: (f.facts.get("created", ""), f.name))

    def _read(self, record: Path) -> Finding:
        facts = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise ValueError(f"{record} is no finding of format {FORMAT}.")
        return Finding(record.stem, record.with_suffix(".png"), record, facts)

    def free_name(self) -> str:
        """finding_001 and so on: the first that is not taken."""
        taken = {path.stem for path in self.folder.glob("*.json")}
        return next(name for k in range(1, 10**6) if (name := f"finding_{k:03d}") not in taken)

    def pin(self, scene: Scene, studio: Studio, name: str = "", note: str = "") -> Finding:
        """Keep a scene under ``name`` (letters, digits, ., - and _; empty: the next free number), over a finding of
        that name. Raises ValueError for another name, TypeError for parameters that JSON cannot hold."""
        from xaiutils.workbook import environment

        name = name or self.free_name()
        if not _NAME.fullmatch(name):
            raise ValueError(f"name={name!r} is not a file name; use letters, digits, ., - and _.")
        ds = studio.dataset(scene.view)
        view = replace(scene.view, dataset=scene.view.dataset or next(iter(studio.datasets)))
        facts = {
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "note": note,
            "view": view.to_json(),
            "dataset": {"name": ds.name, "split": ds.split, "images": len(ds), "size": ds.image_size},
            "image": {
                "id": scene.image_id,
                "class": scene.class_names[scene.label],
                "pixels": _digest([scene.original]),
            },
            "weights": _digest(studio.model(view).get_weights()),
            "target": scene.class_names[scene.target],
            "probabilities": {
                "original": dict(zip(scene.class_names, scene.before.astype(float).round(6).tolist(), strict=True)),
                "transformed": dict(
                    zip(scene.class_names, scene.probabilities.astype(float).round(6).tolist(), strict=True)
                ),
            },
            "numbers": json.loads(scene.numbers.to_json(orient="records")),
            "errors": {i: found.error for i, found in enumerate(scene.maps, 1) if found.error},
            **self.context,
            "environment": environment(),
        }
        text = json.dumps(facts, indent=1)
        picture = self.folder / f"{name}.png"
        drawing = draw_scene(scene)
        replace_file(picture, lambda temporary: temporary.write_bytes(drawing.png(PRINT_DPI)))
        return self._read(write_text(self.folder / f"{name}.json", text))


def _digest(arrays: list[np.ndarray]) -> str:
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
        finding = Board(Path(finding).parent)._read(Path(finding))
    if isinstance(datasets, ImageDataset):
        datasets = {finding.view.dataset: datasets}
    studio = Studio(models, datasets, batch_size)
    view, image = finding.view, finding.facts["image"]
    ds = studio.dataset(view)
    if not (view.image < len(ds) and ds.ids[view.image] == image["id"]):  # another sample of the same data
        if image["id"] not in ds.ids:
            raise ValueError(f"the data set {view.dataset!r} has no image {image['id']!r}, which {finding.name} shows.")
        view = replace(view, image=ds.ids.index(image["id"]))
    changed = []
    if _digest([studio.original(view)[0]]) != image["pixels"]:
        changed.append("the image has other pixels")
    if _digest(studio.model(view).get_weights()) != finding.facts["weights"]:
        changed.append(f"{view.model} has other weights")
    if changed:
        warnings.warn(f"{finding.name} cannot be the same: {' and '.join(changed)}.", stacklevel=2)
    scene = studio.scene(view, strict=False)
    return scene, draw_scene(scene)
