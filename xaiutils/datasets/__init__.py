"""Data sets: `load_dataset` by name, the `ImageDataset` it returns, and a search for leaks between splits."""

import inspect
from pathlib import Path

from xaiutils.datasets import digits, folder, phantom, table
from xaiutils.datasets.image_dataset import ImageDataset, balanced_indices
from xaiutils.datasets.records import SPLITS, find_leaks
from xaiutils.registry import UnknownNameError, suggest

__all__ = ["DATASETS", "FROM_FILES", "SPLITS", "ImageDataset", "balanced_indices", "find_leaks", "load_dataset"]

# Loaders that make their images return arrays; loaders that read files return the data set. The rest of a loader's
# keyword arguments are its options.
DATASETS = {"phantom": phantom.load, "digits": digits.load, "folder": folder.load, "table": table.load}
FROM_FILES = ("folder", "table")  # the data sets that read data_dir
_COMMON = ("split", "image_size", "limit", "seed", "data_dir")


def load_dataset(
    name: str,
    split: str = "test",
    image_size: int = 224,
    limit: int | None = None,
    seed: int = 0,
    data_dir: str | Path = "data",
    **options,
) -> ImageDataset:
    """Load one split of a data set into memory.

    Args:
        name: ``phantom`` (generated mammogram-like images with lesion masks), ``digits`` (scikit-learn's handwriting
            with stroke masks), ``folder`` (class-named folders) or ``table`` (a CSV file).
        split: "train", "val", "test"; "all" too for data on disk and digits.
        image_size: height and width in pixels, at least 8.
        limit: at most so many images, keeping the class proportions; None for all.
        seed: of generation, of splits that the data does not state, and of ``limit``.
        data_dir: where ``folder`` and ``table`` find their files.
        **options: of the loader: ``phantom``: difficulty; ``folder`` and ``table``: see their docstrings
            (`xaiutils.datasets.folder.load`, `xaiutils.datasets.table.load`).

    Raises:
        UnknownNameError: the name is unknown. ValueError, TypeError, FileNotFoundError: an argument, an option or
            the files are not as needed; the message says what to change.
    """
    if name not in DATASETS:
        raise UnknownNameError(f"Unknown data set {name!r}; {suggest(name, list(DATASETS))}")
    allowed = (*SPLITS, "all") if name != "phantom" else SPLITS
    if split not in allowed:
        raise ValueError(f"split={split!r} is unknown for {name}; choose one of {', '.join(allowed)}.")
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 8:
        raise ValueError(f"image_size={image_size!r}; expected an integer of at least 8 pixels.")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r}; expected a positive integer, or None for all images.")
    loader = DATASETS[name]
    takes = inspect.signature(loader).parameters
    known = [p for p in takes if p not in _COMMON]
    for option in options:
        if option not in known:
            raise TypeError(f"Data set {name!r} has no option {option!r}; {suggest(option, known)}")
    common = {
        "split": split,
        "image_size": image_size,
        "limit": limit,
        "seed": seed,
        "data_dir": Path(data_dir),
    }
    loaded = loader(**{k: v for k, v in common.items() if k in takes}, **options)
    fields = loaded if isinstance(loaded, dict) else {k: getattr(loaded, k) for k in loaded.__dataclass_fields__}
    return ImageDataset(**{**fields, "name": name, "split": split})
