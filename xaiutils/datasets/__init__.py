"""Data sets: `load_dataset` by name, the `ImageDataset` it returns, and a search for leaks between splits."""

from pathlib import Path
from typing import Any

from xaiutils.datasets.assemble import assemble
from xaiutils.datasets.catalogue import DATASETS
from xaiutils.datasets.datasheet import datasheet, split_counts
from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.facts import mammography_sets
from xaiutils.datasets.image_dataset import ImageDataset, balanced_indices
from xaiutils.datasets.leaks import find_leaks
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.splits import SPLITS
from xaiutils.registry import check_integer

__all__ = [
    "DATASETS",
    "SPLITS",
    "DatasetEntry",
    "ImageDataset",
    "Listing",
    "Record",
    "balanced_indices",
    "datasheet",
    "find_leaks",
    "load_dataset",
    "mammography_sets",
    "split_counts",
]


def load_dataset(
    name: str,
    split: str = "test",
    image_size: int = 224,
    limit: int | None = None,
    seed: int = 0,
    data_dir: str | Path = "data",
    **options: Any,
) -> ImageDataset:
    """Load one split of a data set.

    Args:
        name: one of `DATASETS`, which says what each is, its licence and how to get it.
        split: "train", "val", "test"; "all" too for data that is not generated.
        image_size: height and width in pixels, at least 8.
        limit: at most so many images, keeping the class proportions; None for all.
        seed: of generation, of splits that the data does not state, and of ``limit``.
        data_dir: where the files are, or where a data set that can be downloaded is put.
        **options: of the data set; ``DATASETS[name].options`` lists them with their defaults, and
            ``help(DATASETS[name].load)`` and `Preparation` explain them.

    Raises:
        UnknownNameError: the name is unknown. ValueError, TypeError, FileNotFoundError: an argument, an option or
            the files are not as needed; the message says what to change.
    """
    entry = DATASETS[name]
    allowed = SPLITS if entry.generated else (*SPLITS, "all")
    if split not in allowed:
        raise ValueError(f"split={split!r} is unknown for {name}; choose one of {', '.join(allowed)}.")
    image_size = check_integer("image_size", image_size, 8)
    if limit is not None:
        limit = check_integer("limit", limit, 1, note=", or None for all images")
    seed = check_integer("seed", seed, 0, 2**32 - 1)
    if not isinstance(data_dir, str | Path) or "\0" in str(data_dir):
        raise TypeError(f"data_dir={data_dir!r}; expected the path of a folder.")
    listing = entry.list_images(data_dir, split, seed, limit, **options)
    return assemble(listing, name, split, image_size, limit, seed)
