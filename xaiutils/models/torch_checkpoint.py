"""Reads PyTorch's legacy checkpoint format without PyTorch and without running code from the file.

A legacy file is five pickles (magic number, protocol version, system facts, the state dict, the storage keys)
followed by the raw storages, each led by its element count as int64. The unpickler resolves four harmless names and
refuses every other, so a tampered file cannot load an object of its own.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
}


@dataclass
class _Storage:
    dtype: np.dtype
    size: int
    data: np.ndarray | None = None


@dataclass
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        data = self.storage.data
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if min((self.offset, *self.stride), default=0) < 0 or (min(self.shape, default=1) > 0 and last >= len(data)):
            raise pickle.UnpicklingError("a tensor reaches outside its storage")
        strides = [s * data.itemsize for s in self.stride]
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides, writeable=False)
        return view.copy()


def _rebuild_tensor(storage, offset, shape, stride, *_unused) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file, storages: dict[str, _Storage]):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Callable | type | np.dtype:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise pickle.UnpicklingError(f"the checkpoint asks for {module}.{name}, which is not allowed")

    def persistent_load(self, pid):
        kind, dtype, key, _device, size, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(v is not None for v in view):
            raise pickle.UnpicklingError(f"unknown persistent object {pid!r}")
        return self._storages.setdefault(str(key), _Storage(dtype, int(size)))


def read_torch_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict of a legacy ``.pth`` file as NumPy arrays by name.

    Raises:
        pickle.UnpicklingError: the file is not a legacy checkpoint, is cut, or asks for anything but tensors.
    """
    storages: dict[str, _Storage] = {}
    with Path(path).open("rb") as file:

        def load():
            return _RestrictedUnpickler(file, storages).load()

        try:
            if load() != _MAGIC or load() != _PROTOCOL:
                raise pickle.UnpicklingError(f"{path} is not a legacy PyTorch checkpoint")
            load()  # byte order and integer sizes of the writer
            state, keys = load(), load()
        except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError) as error:
            raise pickle.UnpicklingError(f"{path} is damaged: {error}") from error
        for key in keys:
            storage = storages.get(str(key))
            count = np.fromfile(file, "<i8", 1)
            if storage is None or len(count) != 1 or count[0] != storage.size:
                raise pickle.UnpicklingError(f"{path} is damaged: storage {key!r} does not match its tensors")
            storage.data = np.fromfile(file, storage.dtype, storage.size)
            if len(storage.data) != storage.size:
                raise pickle.UnpicklingError(f"{path} is cut off in storage {key!r}")
    if any(storage.data is None for storage in storages.values()):
        raise pickle.UnpicklingError(f"{path} is damaged: tensors without data")
    if not isinstance(state, dict) or not all(isinstance(t, _Tensor) for t in state.values()):
        raise pickle.UnpicklingError(f"{path} holds something other than a dict of tensors")
    return {name: tensor.numpy() for name, tensor in state.items()}
