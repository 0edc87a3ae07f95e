"""Computed results, kept by everything that they depend on."""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np

from xaiutils.backend import keras

LIMIT = 256_000_000  # bytes
Result = TypeVar("Result")


class ResultCache:
    """The newest results, whose arrays take at most ``limit`` bytes; safe to use from several threads."""

    def __init__(self, limit: int = LIMIT):
        self._limit, self._size = limit, 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def find(self, key: Hashable) -> Any | None:
        """The result, or None."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def get(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result, made by ``make()`` where it is not there."""
        found = self.find(key)
        if found is not None:
            return found
        made = make()  # not under the lock: it may take minutes
        parts = made if isinstance(made, tuple) else (made,)
        size = 100 + sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
        with self._lock:
            if key not in self._entries:
                self._entries[key] = made, size
                self._size += size
            while self._size > self._limit and len(self._entries) > 1:
                self._size -= self._entries.popitem(last=False)[1][1]
        return made


def array_checksum(*arrays: Any) -> int:
    """CRC-32 of the arrays' bytes; a tensor on the CPU is read in place."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).ravel().view(np.uint8).data, checksum)
    return checksum


def weights_checksum(model: keras.Model) -> int:
    """CRC-32 of all weights: some 7 ms for 20 MB. A model that was trained further has another one."""
    return array_checksum(*(keras.ops.convert_to_tensor(weight) for weight in model.weights))
