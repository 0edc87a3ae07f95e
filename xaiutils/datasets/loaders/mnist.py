"""MNIST (LeCun et al. 1998): 70,000 handwritten digits, from IDX files found in the data folder or downloaded."""

import math
import struct
from pathlib import Path

import numpy as np

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.loaders.digits import read_strokes
from xaiutils.datasets.reading.download import Remote, fetch
from xaiutils.datasets.reading.tree import walk_files
from xaiutils.file_limits import naming, read_bytes

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_CHECKSUMS = {
    "train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9.9),
    "train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432", 0.03),
    "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", 1.6),
    "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", 0.005),
}
REMOTES = tuple(
    Remote(name, tuple(m + name for m in _MIRRORS), f"md5:{md5}", mb) for name, (md5, mb) in _CHECKSUMS.items()
)
_IDX_BYTES = 2**28  # the largest of the real ones has 47 MB
_PREFIX = {"train": "train", "test": "t10k"}


def load(data_dir: Path) -> Listing:
    """The official 60,000 and 10,000 digits; val is a tenth of train. Masks are the strokes, as for ``digits``.

    IDX files below ``data_dir`` are used, packed or not (``train-images-idx3-ubyte.gz``, ``train-images.idx3-ubyte``);
    else the four files are downloaded into ``data_dir/mnist``.
    """
    root = Path(data_dir)
    files = _find(root) if root.is_dir() else {}
    if len(files) < 4:
        fetch(REMOTES, root / "mnist")
        files = _find(root)
    records = []
    for split, prefix in _PREFIX.items():
        images, labels = read_idx(files[prefix, "images"]), read_idx(files[prefix, "labels"])
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(f"{files[prefix, 'images']} holds {images.shape}, its labels {labels.shape}: no pair.")
        records += [
            Record(f"{split}_{i:05d}", int(y), source=x, split=split)
            for i, (x, y) in enumerate(zip(images, labels, strict=True))
        ]
    known = dict.fromkeys(files.values(), TABLE)
    return Listing(records, tuple(map(str, range(10))), _read, origin=str(root), mirrors=False, root=root, files=known)


MNIST = DatasetEntry(
    "mnist",
    "MNIST",
    load,
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio & Haffner 1998, Proceedings of the IEEE 86",
    access="downloaded into data_dir/mnist (12 MB), or your IDX files below data_dir",
    evidence="the stroke",
    caution="Digits of 28 pixels enlarged: models see blur that no camera makes.",
)


def _read(ink: np.ndarray, image_size: int):
    return read_strokes(ink / 255.0, image_size)


def _find(root: Path) -> dict[tuple[str, str], Path]:
    """IDX files by ("train" or "t10k", "images" or "labels")."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in walk_files(root):
        for prefix in _PREFIX.values():
            for kind in ("images", "labels"):
                if path.name.lower().removesuffix(".gz").replace(".", "-").startswith(f"{prefix}-{kind}-idx"):
                    found.setdefault((prefix, kind), []).append(path)
    parents = {p.parent for paths in found.values() for p in paths}
    if len(parents) > 1:  # Fashion-MNIST and others have files of the same names
        names = ", ".join(sorted(map(str, parents)))
        raise ValueError(f"{root} holds several sets of IDX files ({names}); give the folder of one as data_dir.")
    return {key: paths[0] for key, paths in found.items()}


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not. Raises FileError when it is damaged."""
    raw = read_bytes(path, _IDX_BYTES)
    with naming(path, "it is damaged; remove it, and it is downloaded again"):
        if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
            raise ValueError("it is not an IDX file of bytes")
        shape, start = struct.unpack_from(f">{raw[3]}I", raw, 4), 4 + 4 * raw[3]
        if len(raw) - start != math.prod(shape):
            raise ValueError(f"it should hold {shape} bytes and holds {len(raw) - start}")
        return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
