"""Choosing an image: thumbnails of those that pass the filters."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageOps

from xaiutils.datasets import ImageDataset
from xaiutils.images import as_rgb
from xaiutils.widgets.browser_widgets import Thumbnails
from xaiutils.widgets.parameter_controls import Guard, Quiet, dropdown, labelled, options
from xaiutils.widgets.scene import truths

SIDE, PER_PAGE = 64, 12
ANSWERS = {"any": "any answer", "right": "answered right", "wrong": "answered wrong"}
ORDERS = {
    "stored": "as stored",
    "sure": "surest first",
    "unsure": "least sure first",
    "large": "largest evidence first",
}


@dataclass(frozen=True)
class ImageFilter:
    """Which images are offered, and in which order. ``confidence`` is the probability of the predicted class, ``size``
    the evidence's longer side in pixels; their defaults keep all, those without evidence too."""

    label: int = -1
    answer: str = "any"
    confidence: tuple[float, float] = (0.0, 1.0)
    size: tuple[float, float] | None = None
    order: str = "stored"

    @property
    def needs_sizes(self) -> bool:
        """Whether the evidence of all images must have been measured."""
        return self.size is not None or self.order == "large"

    @property
    def needs_answers(self) -> bool:
        """Whether the model must have answered all images."""
        return self.answer != "any" or self.confidence != (0.0, 1.0) or self.order in ("sure", "unsure")


def select(
    ds: ImageDataset, chosen: ImageFilter, probabilities: np.ndarray | None = None, sizes: np.ndarray | None = None
) -> np.ndarray:
    """Positions int64 of the images that pass, in the filter's order.

    Args:
        probabilities: ``(n, classes)``, where the filter needs the model's answers.
        sizes: `ImageDataset.lesion_lengths`, where the filter or its order asks for them.
    """
    keep = np.ones(len(ds), bool) if chosen.label < 0 else ds.members(chosen.label)
    sure = None
    if chosen.needs_answers:
        if probabilities is None:
            raise ValueError("the filter needs the model's answers.")
        sure, right = probabilities.max(axis=1), are_right(ds, probabilities)
        keep &= {"any": np.ones(len(ds), bool), "right": right, "wrong": ~right}[chosen.answer]
        low, high = chosen.confidence
        keep &= (sure >= low - 1e-6) & (sure <= high + 1e-6)
    if chosen.size is not None:
        if sizes is None:
            raise ValueError("the filter needs the sizes of the evidence.")
        keep &= (sizes >= chosen.size[0]) & (sizes <= chosen.size[1])  # False where there is no evidence: NaN
    found = np.flatnonzero(keep)
    key = {"sure": sure, "unsure": None if sure is None else -sure, "large": sizes}.get(chosen.order)
    if key is not None:
        found = found[np.argsort(-np.nan_to_num(key[found], nan=-np.inf), kind="stable")]
    return found


def are_right(ds: ImageDataset, probabilities: np.ndarray) -> np.ndarray:
    """Whether each answer is right, bool ``(n,)``: the most probable class, or of several labels every known one."""
    if ds.multi_label:
        return (((probabilities > 0.5) == (ds.labels == 1)) | (ds.labels < 0)).all(axis=1)
    return probabilities.argmax(axis=1) == ds.labels


def _filters() -> dict[str, widgets.Widget]:
    """The controls of an `ImageFilter`."""
    plain = {"label_width": "0"}
    among = {"min": 0, "max": 1, "continuous_update": False}
    sure = labelled("confidence", "probability of the predicted class")
    size = labelled("evidence", "longer side of the evidence in pixels")
    return {
        "label": dropdown("", {-1: "any class"}, "true class", **plain),
        "answer": dropdown("", ANSWERS, "the model's answer", **plain),
        "order": dropdown("", ORDERS, "order of the images", **plain),
        "confidence": widgets.FloatRangeSlider(value=(0, 1), step=0.01, readout_format=".0%", **among, **sure),
        "size": widgets.IntRangeSlider(value=(0, 1), **among, **size),
    }


def contact_sheet(pixels: Sequence[np.ndarray], side: int) -> bytes:
    """Images ``(height, width, C)`` beside each other, each fitted into ``side`` x ``side`` pixels, as one JPEG."""
    sheet = Image.new("RGB", (side * max(len(pixels), 1), side))
    for k, image in enumerate(pixels):
        small = ImageOps.pad(Image.fromarray(np.ascontiguousarray(as_rgb(image.astype(np.uint8)))), (side, side))
        sheet.paste(small, (k * side, 0))
    file = io.BytesIO()
    sheet.save(file, "jpeg", quality=85)
    return file.getvalue()


class ImagePicker:
    """The filters and a page of thumbnails, in ``box``.

    Args:
        picked: called with the position of an image that was chosen.
        asked: called when the filter needs what `lacks` names; `show` then brings the answers, `measure` the sizes.
        guard: wraps the handlers of events.

    ``found`` are the positions of the images that pass, ``image`` is the present one.
    """

    ds: ImageDataset

    def __init__(self, picked: Callable[[int], None], asked: Callable[[], None], guard: Guard):
        self._asked, self._quiet = asked, Quiet()
        self.controls: dict[str, widgets.Widget] = _filters()
        turn = {"layout": widgets.Layout(width="62px")}
        self.back = widgets.Button(description="‹ back", tooltip="images before these", **turn)
        self.forth = widgets.Button(description="next ›", tooltip="images after these", **turn)
        # As wide as it needs: a cut "13-24 of 200" is a wrong number.
        self.count = widgets.Label("", layout=widgets.Layout(width="max-content", overflow="visible"))
        self.thumbnails = Thumbnails(guard(picked), side=SIDE)
        self.back.on_click(guard(lambda _: self._turn(-1)))
        self.forth.on_click(guard(lambda _: self._turn(1)))
        for widget in self.controls.values():
            widget.observe(guard(lambda _: self.refresh()), names="value")
        filters = widgets.VBox([*self.controls.values()])
        filters.add_class("xai-filters")
        self.box = widgets.VBox([filters, widgets.HBox([self.back, self.forth, self.count]), self.thumbnails])
        self.found = self._shown = np.zeros(0, np.int64)
        self._page, self.image = 0, -1
        self._answers: np.ndarray | None = None
        self._right: np.ndarray | None = None
        self._is_score, self._truths = False, [""]
        self._sizes: np.ndarray | None = None

    def show(self, ds: ImageDataset, answers: np.ndarray | None, image: int, is_score: bool = False) -> None:
        """Offer the images of ``ds``; ``answers`` are the model's probabilities ``(n, classes)`` where known, or with
        ``is_score`` its score ``(n, 1)``, which is neither right nor wrong."""
        new = getattr(self, "ds", None) is not ds or self._is_score != is_score
        self.ds, self._answers, self.image, self._is_score = ds, answers, image, is_score
        self._right = None if answers is None or is_score else are_right(ds, answers)
        if new:
            self._sizes = None
            with self._quiet:
                self._offer(ds)
        self.refresh(keep_page=not new)

    def _offer(self, ds: ImageDataset) -> None:
        c, known = (
            self.controls,
            ds.masks is not None or "lesion_pixels" in ds.metadata,
        )
        c["label"].options = options({-1: "any class", **{i: str(name) for i, name in enumerate(ds.class_names)}})
        c["label"].value = -1
        c["size"].layout.display = "" if known else "none"
        self._truths = truths(ds)
        c["size"].max = max(ds.pixels.shape[1:3])
        c["size"].value = (0, c["size"].max)
        for name in ("answer", "confidence"):
            c[name].layout.display = "none" if self._is_score else ""
        left_out = {"large"} if not known else set()
        left_out |= {"sure", "unsure"} if self._is_score else set()
        c["order"].options = options({key: text for key, text in ORDERS.items() if key not in left_out})

    def show_image(self, image: int) -> None:
        """Mark an image as the present one."""
        self.image = image
        self._mark()

    @property
    def filter(self) -> ImageFilter:
        """What the controls say."""
        c = self.controls
        size = None if c["size"].value == (0, c["size"].max) else c["size"].value
        return ImageFilter(c["label"].value, c["answer"].value, tuple(c["confidence"].value), size, c["order"].value)

    @property
    def lacks(self) -> str:
        """What the filter needs and is not known yet: "sizes", "answers" or nothing."""
        chosen = self.filter
        if chosen.needs_sizes and self._sizes is None:
            return "sizes"
        return "answers" if chosen.needs_answers and self._answers is None else ""

    def measure(self) -> None:
        """Measure the evidence of all images."""
        self._sizes = self.ds.lesion_lengths()

    def refresh(self, keep_page: bool = False) -> None:
        """Apply the filter, or ask for what it needs."""
        if self._quiet.on:
            return
        if self.lacks:
            self.count.value = "looking ..."
            self._page = -1  # not the page of another filter
            self._asked()
            return
        self.found = select(self.ds, self.filter, self._answers, self._sizes)
        at = np.flatnonzero(self.found == self.image)
        if not keep_page or self._page < 0:
            self._page = int(at[0]) // PER_PAGE if at.size else 0
        self._draw()

    def _turn(self, by: int) -> None:
        self._page += by
        self._draw()

    def _draw(self) -> None:
        pages = max(1, -(-len(self.found) // PER_PAGE))
        self._page = min(max(self._page, 0), pages - 1)
        first = self._page * PER_PAGE
        self._shown = self.found[first : first + PER_PAGE]
        with self.thumbnails.hold_sync():
            self.thumbnails.sheet = contact_sheet([self.ds.pixels[i] for i in self._shown], SIDE)
            self.thumbnails.cells = [self._cell(int(i)) for i in self._shown]
            self._mark()
        self.back.disabled, self.forth.disabled = self._page == 0, self._page == pages - 1
        last = first + len(self._shown)
        self.count.value = f"{first + 1}-{last} of {len(self.found)}" if last else "no image"

    def _cell(self, i: int) -> dict[str, Any]:
        name = self._truths[i]
        short = name if len(name) <= 11 else f"{name[:10]}…"
        title, answer, mark = f"image {i}, {name}", "", ""
        if self._answers is not None and self._right is None:
            answer = f"{self._answers[i, 0]:.4g}"
        elif self._answers is not None and self._right is not None:
            said = int(self._answers[i].argmax())
            right, sure = self._right[i], float(self._answers[i, said])
            answer = f"{'✓' if right else '✗'} {sure:.2f}"
            mark = "right" if right else "wrong"
            title += f", answered {self.ds.class_names[said]} with {sure:.2f}"
        return {"image": i, "label": f"{i}", "detail": short, "answer": answer, "mark": mark, "title": title}

    def _mark(self) -> None:
        at = np.flatnonzero(self._shown == self.image)
        self.thumbnails.chosen = int(at[0]) if at.size else -1
