"""The record of `behaviour_digest`: what is kept of arrays, tables and texts, and how two records differ."""

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import tensorflow as tf


class Record:
    """Entries by key; only keys that start with ``only`` are computed, or lead to one that does.

    ``folders`` are paths of this machine, and what stands for them in texts.
    """

    def __init__(self, only: str, folders: Mapping[str, str]):
        self.only, self.folders, self.entries, self.seconds = only, folders, {}, {}

    def wants(self, key: str) -> bool:
        return key.startswith(self.only) or self.only.startswith(key + "/")

    def run(self, key: str, compute: Callable[[], object]) -> None:
        """What ``compute`` returns, under ``key``, or the error that it raises."""
        if not self.wants(key):
            return
        start = time.perf_counter()
        try:
            self.add(key, compute())
        except Exception as error:
            self.add(key, f"error: {type(error).__name__}: {error}")
        self.seconds[key] = time.perf_counter() - start

    def add(self, key: str, value: object) -> None:
        if isinstance(value, pd.Series):
            value = value.to_frame(str(value.name))
        if isinstance(value, pd.DataFrame):
            flat = value.reset_index() if value.index.nlevels > 1 or value.index.dtype == object else value
            numbers = [c for c in flat.columns if flat[c].dtype.kind in "iufb"]
            for column in numbers:
                self.add(f"{key}[{column}]", flat[column].to_numpy())
            others = flat.drop(columns=numbers).to_csv(index=False)
            self.add(key, f"columns: {list(map(str, flat.columns))}, {len(flat)} rows\n{others}")
        elif isinstance(value, Mapping):
            for name, part in value.items():
                self.add(f"{key}/{name}", part)
            self.add(key + "/keys", ", ".join(map(str, value)))
        elif dataclasses.is_dataclass(value):
            self.add(key, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        elif isinstance(value, np.ndarray | tf.Tensor | float | np.generic):
            array = np.asarray(value)
            self._put(key, str(array.tolist()) if array.dtype.kind in "OUS" else _array(array))
        else:
            text = value if isinstance(value, str) else repr(value)
            for folder, name in self.folders.items():
                text = text.replace(folder, name) if folder else text
            self._put(key, re.sub(r" at 0x[0-9a-f]+", "", text))

    def _put(self, key: str, entry: object) -> None:
        if key.startswith(self.only):
            self.entries[key] = entry


def _array(array: np.ndarray) -> dict:
    """dtype, shape and values as a digest, and what lets a deviation be told; 0 and -0 are the same."""
    array = np.ascontiguousarray(array + array.dtype.type(0) if array.dtype.kind == "f" else array)
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
    values = array.astype(np.float64).ravel()
    known = values[np.isfinite(values)]
    mean, std = (float(known.mean()), float(known.std())) if known.size else (None, None)
    picked = values[np.unique(np.linspace(0, values.size - 1, min(64, values.size)).astype(int))] if values.size else []
    sample = [float(v) if np.isfinite(v) else None for v in picked]
    kind, shape = str(array.dtype), list(array.shape)
    return {"digest": digest, "mean": mean, "std": std, "shape": shape, "dtype": kind, "sample": sample}


def difference(old: object, new: object) -> str:
    """In a line, how an entry changed."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if not (isinstance(old, str) and isinstance(new, str)):
            return f"was {str(old)[:200]!r}, is {str(new)[:200]!r}"
        at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        return f"text from character {at}: {old[max(at - 30, 0) : at + 60]!r} -> {new[max(at - 30, 0) : at + 60]!r}"
    if (old["shape"], old["dtype"]) != (new["shape"], new["dtype"]):
        return f"{old['dtype']} {old['shape']} -> {new['dtype']} {new['shape']}"
    pairs = [p for p in zip(old["sample"], new["sample"], strict=True) if None not in p]
    scale = max((abs(a) for a, _ in pairs), default=0) or 1
    largest = max((abs(a - b) for a, b in pairs), default=0) / scale
    lost = sum((a is None) != (b is None) for a, b in zip(old["sample"], new["sample"], strict=True))
    nan = f", {lost} sampled values NaN in one" if lost else ""
    return f"mean {old['mean']} -> {new['mean']}, largest sampled deviation {largest:.2g} of the largest value{nan}"


def compare(old: dict[str, object], new: dict[str, object]) -> int:
    """Print what differs; return how many keys do."""
    differ = [k for k in new if k in old and old[k] != new[k]]
    missing, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    for key in differ:
        print(f"differs  {key}: {difference(old[key], new[key])}")
    for title, keys in (("missing", missing), ("new", added)):
        for key in keys:
            print(f"{title:8} {key}")
    print(f"{len(new)} keys: {len(differ)} differ, {len(missing)} missing, {len(added)} new")
    return len(differ) + len(missing) + len(added)
