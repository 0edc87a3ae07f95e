"""Splits of phantoms, for `xaiutils.datasets.load_dataset`."""

from functools import partial

import numpy as np

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.image_dataset import ImageDataset
from xaiutils.datasets.listing import Listing, Picture, Record
from xaiutils.datasets.phantom.image import (
    ConceptPhantom,
    Phantom,
    generate,
    generate_concepts,
    generate_labelled,
    seed_labels,
)
from xaiutils.datasets.phantom.lesions import FIELD_MM
from xaiutils.datasets.phantom.tasks import (
    CONCEPT_LABELS,
    CONCEPTS,
    DEFAULT_DIFFICULTY,
    LABELS,
    MULTI_LABEL,
    TAG_PROBABILITY,
    TASKS,
    check_task,
)
from xaiutils.registry import check_choice

SPLIT_SIZES = {"train": 3000, "val": 500, "test": 500}
TAGS = ("iid", "neutral", "flipped")
LANDMARKS = ("nipple", "upper_end", "lower_end", "centre")  # columns of the metadata; the last is the lesion's
_FIRST_SEEDS = {"train": 0, "val": 1_000_000, "test": 2_000_000, "concepts": 3_000_000, "twins": 4_000_000}
NO_CONCEPT = "none"


def image_seeds(split: str, n: int, seed: int = 0) -> np.ndarray:
    """Seeds of the first ``n`` images of a split; splits never share an image, nor do different ``seed`` values."""
    return _FIRST_SEEDS[split] + 10_000_000 * seed + np.arange(n)


def load(
    split: str,
    seed: int,
    limit: int | None,
    *,
    task: str = "margin",
    difficulty: str = DEFAULT_DIFFICULTY,
    tags: str = "iid",
    tag_probability: float = TAG_PROBABILITY,
) -> Listing:
    """Mammogram-like images whose lesions, and so whose evidence, are known.

    Args:
        task: "presence" (normal or mass), "margin" (smooth benign or spiculated malignant mass), "calcifications"
            (benign or malignant cluster), "shortcut" (margin, with a view marker that goes with the label), "five"
            (normal, and masses and calcifications of both kinds). Masks are the lesions; normal images have none.
            "multi_label": a mass, calcifications and the view marker, each present or not whatever the others are, with
            a mask for each. "concepts": the same of `generate_concepts`, beside a mass that all have.
        difficulty: "easy": the lesion alone, so bright that brightness finds it. "medium": of half the contrast, in the
            company of decoys that decide nothing (dense islands, masses with fat, nodes, calcified vessels), so that
            neither brightness nor edges nor the centre find it. "hard": the same with a quarter of the contrast.
        tags: of the test split of "shortcut": "iid" as in training, "neutral" (the marker tells nothing), "flipped"
            (it points to the other class). Only the marker differs between the three.
        tag_probability: of the marker on malignant images, in "shortcut"; on benign ones it is one minus that. In all
            other tasks the marker is on half of the images, whatever the class.
    """
    check_choice("task", task, (*TASKS, *_SEVERAL))
    check_task("margin" if task in _SEVERAL else task, difficulty, tag_probability)
    check_choice("tags", tags, TAGS)
    if task != "shortcut" and (tags, tag_probability) != ("iid", TAG_PROBABILITY):
        raise ValueError(f"tags and tag_probability are options of task='shortcut'; the task is {task!r}.")
    n = SPLIT_SIZES[split] if limit is None else min(limit, SPLIT_SIZES[split])
    seeds = image_seeds(split, n, seed)
    if task in _SEVERAL:
        names, reader = _SEVERAL[task]
        read = partial(reader, difficulty=difficulty)
        records = [Record(f"phantom_{s:08d}", 0, source=int(s), labels=seed_labels(s, len(names))) for s in seeds]
        return Listing(records, names, read, origin="phantom", available=SPLIT_SIZES[split])
    classes = TASKS[task].class_names
    read = partial(_read, task=task, difficulty=difficulty, chance=_tag_probability(split, tags, tag_probability))
    records = [Record(f"phantom_{s:08d}", int(s) % len(classes), source=int(s)) for s in seeds]
    return Listing(records, classes, read, origin="phantom", available=SPLIT_SIZES[split])


def concept_images(
    n: int, n_without: int, image_size: int = 224, difficulty: str = DEFAULT_DIFFICULTY, seed: int = 0
) -> ImageDataset:
    """What a concept looks like, by example: of each concept ``n`` images that show it and none of the others, and
    ``n_without`` images that show none, no two of one breast; no split has any of them.

    Classes are "none" and `tasks.CONCEPTS`, masks the concept's own. See `generate_concepts` for the arguments.
    """
    labels = np.repeat(np.arange(len(CONCEPTS) + 1), [n_without, *[n] * len(CONCEPTS)])
    seeds = image_seeds("concepts", len(labels), seed)
    shown = [tuple(int(k == label) for k in range(1, len(CONCEPTS) + 1)) for label in labels]
    made = [generate_concepts(s, image_size, difficulty, bits) for s, bits in zip(seeds, shown, strict=True)]
    masks = np.stack([p.masks[label - 1] & bool(label) for p, label in zip(made, labels, strict=True)])
    ids = [f"phantom_{s:08d}" for s in seeds]
    return ImageDataset(_pixels(made), labels, (NO_CONCEPT, *CONCEPTS), ids, masks, name="phantom concepts")


def concept_twins(
    n: int, image_size: int = 224, difficulty: str = DEFAULT_DIFFICULTY, seed: int = 0
) -> dict[str, np.ndarray]:
    """The same ``n`` breasts without any concept ("none") and with each alone, uint8 ``(n, size, size, 3)`` by name:
    by what a model's answers to them differ, it knows the concept. See `generate_concepts` for the arguments."""
    seeds = image_seeds("twins", n, seed)
    shown = {NO_CONCEPT: -1} | {name: k for k, name in enumerate(CONCEPTS)}
    bits = {name: tuple(int(j == k) for j in range(len(CONCEPTS))) for name, k in shown.items()}
    return {
        name: _pixels([generate_concepts(s, image_size, difficulty, labels) for s in seeds])
        for name, labels in bits.items()
    }


def _pixels(made: list[ConceptPhantom]) -> np.ndarray:
    """Their images as a data set has them."""
    pixels = np.stack([np.rint(255 * p.image).astype(np.uint8) for p in made])[..., None]
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


PHANTOM = DatasetEntry(
    "phantom",
    "Mammogram phantom",
    load,
    licence="this project's (MIT)",
    citation="after Burgess 2001, Chen 2012, Badano 2018 (VICTRE) and de Sisternes 2015; see the module",
    access="generated from the seed",
    evidence="the lesion; its counterfactual twin gives the exact pixels that decide",
    caution="Didactic: larger lesions, higher contrast and simpler anatomy than a patient's.",
    reads_files=False,
    generated=True,
)


def _read(image_seed: int, image_size: int, task: str, difficulty: str, chance: float) -> Picture:
    phantom = generate(image_seed, image_size, task, difficulty, tag_probability=chance)
    return Picture(np.rint(255 * phantom.image).astype(np.uint8), phantom.lesion, _metadata(phantom))


def _read_labelled(image_seed: int, image_size: int, difficulty: str) -> Picture:
    found = generate_labelled(image_seed, image_size, difficulty)
    facts = {name: getattr(found, name) for name in ("view", "side", "density")}
    facts |= dict(zip(("mass kind", "calcification kind"), found.kinds, strict=True))
    facts |= {"mm_per_pixel": FIELD_MM / image_size}
    states = tuple("known" if y else "empty" for y in found.labels)
    pixels = np.rint(255 * found.image).astype(np.uint8)
    return Picture(pixels, np.asarray(found.masks.any(axis=0)), facts, {}, found.masks, states)


def _read_concepts(image_seed: int, image_size: int, difficulty: str) -> Picture:
    found = generate_concepts(image_seed, image_size, difficulty)
    states = tuple("known" if mask.any() else "empty" for mask in found.masks)
    pixels = np.rint(255 * found.image).astype(np.uint8)
    facts = {"mm_per_pixel": FIELD_MM / image_size}
    return Picture(pixels, np.asarray(found.masks.any(axis=0)), facts, {}, found.masks, states)


# Tasks of several labels: their names, and how an image is read.
_SEVERAL = {MULTI_LABEL: (LABELS, _read_labelled), CONCEPT_LABELS: (CONCEPTS, _read_concepts)}


def _tag_probability(split, tags, tag_probability):
    if split != "test":
        return tag_probability
    return {"iid": tag_probability, "neutral": 0.5, "flipped": 1 - tag_probability}[tags]


def _metadata(phantom: Phantom) -> dict:
    names = ("view", "side", "density", "contrast", "radius_mm", "tag")
    scale = FIELD_MM / phantom.image.shape[0]
    facts = {**{n: getattr(phantom, n) for n in names}, "lesion_mm": 2 * phantom.radius_mm, "mm_per_pixel": scale}
    for name, (row, column) in zip(LANDMARKS, (*phantom.landmarks, phantom.centre), strict=True):
        facts |= {f"{name}_row": float(row), f"{name}_column": float(column)}
    return facts
