"""A mark that goes with a class, as a shortcut that a model may learn: do maps show it where the model uses it?

The marked images are an `ImageDataset` whose masks are the mark, so that every metric of localisation takes them. A map
can only be asked to find what the model uses, and `mark_use` measures whether it reads the mark at all.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import evaluate_all
from xaiutils.graph.network import Network
from xaiutils.graph.predict import predict

PLACES = ("top_left", "top_right", "bottom_left", "bottom_right")
MARKS = ("iid", "neutral", "flipped")


@dataclass(frozen=True)
class Mark:
    """What is planted into images: letters in a corner, as of a view marker or a watermark, or a plain square.

    ``text``: the letters, empty for a square. ``place``: one of `PLACES`, or "random" for a corner of each image's
    own. ``height`` of the mark and ``margin`` to the border are fractions of the image's height; ``brightness`` is its
    grey value as a fraction of 255, and ``opacity`` how much of it is seen, in (0, 1]: the lower, the less contrast.
    """

    text: str = "RCC"
    place: str = "top_right"
    height: float = 0.08
    margin: float = 0.03
    brightness: float = 0.9
    opacity: float = 1.0

    def __post_init__(self):
        if self.place not in (*PLACES, "random"):
            raise ValueError(f"place={self.place!r}; choose one of {', '.join(PLACES)}, random.")
        fits = self.height > 0 and self.margin >= 0 and self.height + 2 * self.margin <= 1
        if not (fits and 0 <= self.brightness <= 1 and 0 < self.opacity <= 1):
            raise ValueError(
                f"height={self.height}, margin={self.margin}, brightness={self.brightness}, opacity={self.opacity}; "
                "expected fractions from 0 to 1, neither height nor opacity 0, and a mark that fits into the image."
            )

    def drawn(self, height: int, width: int, place: str) -> tuple[np.ndarray, np.ndarray]:
        """How much ink each pixel gets, float32 in [0, 1], and the mark's box, bool; both ``(height, width)``."""
        letters = self._letters(max(3, round(self.height * height)))
        rows, columns = letters.shape
        margin = round(self.margin * height)
        if columns + 2 * margin > width:
            raise ValueError(f"text={self.text!r} is {columns} pixels wide; images of {width} have no room for it.")
        top = margin if place.startswith("top") else height - margin - rows
        left = margin if place.endswith("left") else width - margin - columns
        ink, box = np.zeros((height, width), np.float32), np.zeros((height, width), bool)
        field = np.s_[top : top + rows, left : left + columns]
        ink[field], box[field] = letters, True
        return ink, box

    def _letters(self, rows: int) -> np.ndarray:
        """Ink of the text, ``rows`` high."""
        if not self.text:
            return np.ones((rows, rows), np.float32)
        font = ImageFont.load_default(size=4 * rows)  # drawn large, then shrunk to exactly the height wanted
        left, top, right, bottom = (round(edge) for edge in font.getbbox(self.text))
        sheet = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
        ImageDraw.Draw(sheet).text((-left, -top), self.text, fill=255, font=font)
        columns = max(1, round(sheet.width * rows / sheet.height))
        return np.asarray(sheet.resize((columns, rows), Image.Resampling.BOX), np.float32) / 255


def plant(ds: ImageDataset, mark: Mark, present: np.ndarray | bool = True, seed: int = 0) -> ImageDataset:
    """The images with the mark where ``present`` (bool, for each image or for all) says so.

    ``masks`` of the result are the mark's box, empty where there is none, in place of any masks of ``ds``;
    ``metadata`` gets the column ``mark``. ``seed`` draws random places, by each image's id.
    """
    present = np.broadcast_to(np.asarray(present, bool), len(ds))
    height, width = ds.pixels.shape[1:3]
    stencils = {place: mark.drawn(height, width, place) for place in PLACES}
    pixels, masks = np.array(ds.pixels), np.zeros(ds.pixels.shape[:3], bool)
    for i in np.flatnonzero(present):
        place = mark.place if mark.place != "random" else PLACES[_rng(ds.ids[i], seed, 1).integers(len(PLACES))]
        ink, box = stencils[place]
        strength = mark.opacity * ink[..., None]
        pixels[i] = np.rint(pixels[i] + strength * (255 * mark.brightness - pixels[i]))
        masks[i] = box
    return replace(
        ds, pixels=pixels, masks=masks, evidence=None, metadata=pd.DataFrame(ds.metadata).assign(mark=present)
    )


def confound(
    ds: ImageDataset,
    marked_class: int,
    mark: Mark | None = None,
    probability: float = 0.95,
    marks: str = "iid",
    seed: int = 0,
) -> ImageDataset:
    """`plant` the mark so that it goes with a class: for training, and for three kinds of test sets.

    ``marks`` is "iid": an image of ``marked_class`` has the mark with ``probability``, another with 1 - probability;
    "neutral": all with 1/2, so that the mark tells nothing; "flipped": the other way round. What is drawn for an image
    depends on its id and ``seed`` alone, so that the three differ by the mark and nothing else.
    """
    ds.check_single_label("confound")
    if marks not in MARKS:
        raise ValueError(f"marks={marks!r}; choose one of {', '.join(MARKS)}.")
    if not 0 <= probability <= 1:  # false for NaN too
        raise ValueError(f"probability={probability!r}; expected a number between 0 and 1.")
    if marked_class not in range(len(ds.class_names)):
        raise ValueError(f"marked_class={marked_class!r}; the data has the classes 0 to {len(ds.class_names) - 1}.")
    of_marked = {"iid": probability, "neutral": 0.5, "flipped": 1 - probability}[marks]
    chance = np.where(ds.labels == marked_class, of_marked, 1 - of_marked)
    drawn = np.array([_rng(i, seed, 0).random() for i in ds.ids])
    return plant(ds, mark or Mark(), drawn < chance, seed)


def _rng(image_id: str, seed: int, cause: int) -> np.random.Generator:
    """Random numbers of one image, whatever images are beside it."""
    return np.random.default_rng([seed, zlib.crc32(image_id.encode()), cause])


def mark_use(
    model: keras.Model,
    clean: ImageDataset,
    marked: ImageDataset,
    targets: int | Iterable[int] | None = None,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Whether the model uses the mark: the target's score of each image without and with it.

    ``clean`` and ``marked`` are the same images, as given to `plant` and as returned. ``targets``: the class that the
    mark goes with, or one for each image; None: the class predicted with the mark.

    Returns a row for each image: image_id, mark (whether it is there), target, logit_without, logit_with,
    logit_change, p_without, p_with (probabilities), turned (whether the mark changes the predicted class).
    """
    if marked.masks is None:
        raise ValueError("marked has no masks; give what `plant` returned.")
    if clean.ids != marked.ids:
        raise ValueError("clean and marked are not the same images: their ids differ.")
    without, with_mark = (predict(model, d.images, batch_size) for d in (clean, marked))
    network = Network.of(model)
    p_without, p_with = (network.probabilities(z).numpy() for z in (without, with_mark))
    chosen = with_mark.argmax(axis=1) if targets is None else np.broadcast_to(np.asarray(targets), len(clean))
    rows = np.arange(len(clean))
    return pd.DataFrame(
        {
            "image_id": clean.ids,
            "mark": marked.masks.any(axis=(1, 2)),
            "target": chosen,
            "logit_without": without[rows, chosen],
            "logit_with": with_mark[rows, chosen],
            "logit_change": with_mark[rows, chosen] - without[rows, chosen],
            "p_without": p_without[rows, chosen],
            "p_with": p_with[rows, chosen],
            "turned": without.argmax(axis=1) != with_mark.argmax(axis=1),
        }
    )


def mark_found(
    marked: ImageDataset,
    maps: Mapping[str, np.ndarray],
    use: pd.DataFrame,
    metrics: Iterable[str] = ("relevance_mass", "pointing_game", "roc_auc"),
) -> pd.DataFrame:
    """How much of each map lies in the mark, beside what the mark does to the score that the map explains.

    ``maps`` explain the ``marked`` images for the targets of ``use``, the table of `mark_use`. Returns the rows of
    `xaiutils.evaluation.evaluate_all` for images with a mark, with the columns logit_change and turned.
    """
    table = evaluate_all(None, marked, maps, metrics)
    there = use.loc[use["mark"], ["image_id", "logit_change", "turned"]]
    return table.merge(there, on="image_id", validate="many_to_one")
