"""Data sets: `load_dataset` by name, the `ImageDataset` it returns, and a search for leaks between splits."""

import inspect
from pathlib import Path

from xaiutils.datasets.assemble import assemble
from xaiutils.datasets.catalogue import DATASETS, DatasetEntry
from xaiutils.datasets.datasheet import datasheet
from xaiutils.datasets.image_dataset import ImageDataset, balanced_indices
from xaiutils.datasets.leaks import find_leaks
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.splits import SPLITS
from xaiutils.registry import check_integer, suggest

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
]

_GIVEN = ("split", "image_size", "limit", "seed", "data_dir")  # what load_dataset itself takes; the rest are options


def load_dataset(
    name: str,
    split: str = "test",
    image_size: int = 224,
    limit: int | None = None,
    seed: int = 0,
    data_dir: str | Path = "data",
    **options,
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
            ``help(DATASETS[name].load)`` explains them.

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
    takes = inspect.signature(entry.load).parameters
    for option, value in options.items():
        if option not in entry.options:
            raise TypeError(f"Data set {name!r} has no option {option!r}; {suggest(option, list(entry.options))}")
        kinds = str | int if "int" in str(takes[option].annotation) else str
        if isinstance(entry.options[option], str) and not isinstance(value, kinds):
            raise TypeError(f"{option}={value!r}; expected a text.")
        if isinstance(entry.options[option], bool) and not isinstance(value, bool):
            raise TypeError(f"{option}={value!r}; expected true or false.")
    given = {"split": split, "image_size": image_size, "limit": limit, "seed": seed, "data_dir": Path(data_dir)}
    listing = entry.load(**{k: v for k, v in given.items() if k in takes}, **options)
    return assemble(listing, name, split, image_size, limit, seed)
