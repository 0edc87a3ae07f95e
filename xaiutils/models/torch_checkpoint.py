"""Reads state dicts: PyTorch's checkpoints, without PyTorch and without running code from the file, and safetensors.

A checkpoint is a zip file with the pickled state dict (or a dict that holds it as "model" or "state_dict", and nothing
else) and one member for each storage, or, before PyTorch 1.6, five
pickles (magic number, protocol version, system facts, the state dict, the storage keys) followed by the raw storages,
each led by its element count as int64. The unpickler resolves four harmless names and refuses every other, so a
tampered file cannot load an object of its own. No size is believed: an array is a view of the mapped file, or of a
member that has it.
"""

import io
import mmap
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import ml_dtypes
import numpy as np
from safetensors import safe_open

from xaiutils.file_limits import FileError, check_regular, check_zip, naming

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_OPERATIONS = 5_000_000  # of the pickles; a state dict takes some forty a tensor
_UNUSED = frozenset({"DUP", "POP", "POP_MARK", "MEMOIZE", "EMPTY_SET", "FROZENSET", "INST", "OBJ"})
_STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
}
_SAFETENSORS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
_HOLDERS = ("model", "state_dict")  # what training scripts call the state dict in a dict of their own


@dataclass
class _Storage:
    dtype: np.dtype
    size: int
    data: np.ndarray = field(default_factory=lambda: np.zeros(0))  # not there yet
    read: bool = False


@dataclass
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        data = self.storage.data
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if min((self.offset, *self.stride, *self.shape), default=0) < 0 or (all(self.shape) and last >= len(data)):
            raise ValueError("a tensor reaches outside its storage")
        if np.prod([float(n) for n in self.shape]) > max(len(data), 1):
            raise ValueError("a tensor has more elements than its storage")
        strides = [s * data.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides, writeable=False)


def _rebuild_tensor(storage, offset, shape, stride, *_unused) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
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
        known = kind == "storage" and isinstance(dtype, np.dtype) and isinstance(key, str | int)
        if not known or not isinstance(size, int) or any(v is not None for v in view):
            raise pickle.UnpicklingError("it asks for an unknown persistent object")
        return self._storages.setdefault(str(key), _Storage(dtype, int(size)))


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a ``.safetensors`` file, or of a PyTorch checkpoint, as NumPy arrays by name; bfloat16, which
    NumPy has not, as float32.

    Raises FileError: the file is damaged, or holds anything but tensors.
    """
    return read_safetensors(path) if Path(path).suffix == ".safetensors" else read_torch_checkpoint(path)


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a ``.safetensors`` file as NumPy arrays by name, bfloat16 as float32.

    Raises FileError: the file is damaged (its library compares the header's length, types, shapes and offsets with the
    file, which they must cover without a gap or an overlap), or holds quantised or complex numbers.
    """
    check_regular(path)
    with naming(path, "it is not a readable safetensors file"), safe_open(path, "np") as file:
        types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118, it is no dict
        for name, kind in types.items():
            if kind not in _SAFETENSORS:
                raise FileError(path, f"its tensor {name[:80]!r} is of type {kind}; save it as F32, F16 or BF16")
        return {name: _known(file.get_tensor(name)) for name in types}


def _known(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def read_torch_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict of a ``.pth`` file as NumPy arrays by name, read-only.

    Raises FileError: the file is not a checkpoint, is cut, or asks for anything but tensors.
    """
    if check_regular(path) == 0:
        with naming(path):
            raise ValueError("it is not a PyTorch checkpoint: it is empty")
    with naming(path, "it is not a readable PyTorch checkpoint"), Path(path).open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return _read_zip(path)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last array
        return _read(mapped, np.frombuffer(mapped, np.uint8))


def _read_zip(path: str | Path) -> dict[str, np.ndarray]:
    check_zip(path)
    storages: dict[str, _Storage] = {}
    with zipfile.ZipFile(path) as packed:
        members = {member.filename: member for member in packed.infolist()}
        names = [name for name in members if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("it has no state dict, or several")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in members and packed.read(f"{folder}byteorder") != b"little":
            raise ValueError("it was written by a machine of another byte order")
        state = _tensors(_load(io.BytesIO(packed.read(names[0])), storages))
        for key, storage in storages.items():
            member = members.get(f"{folder}data/{key}")
            if member is None or member.file_size != storage.size * storage.dtype.itemsize:
                raise ValueError(f"its storage {key[:40]!r} does not match its tensors")
            storage.data = np.frombuffer(packed.read(member), storage.dtype)
    return {name: _known(tensor.numpy()) for name, tensor in state.items()}


def _tensors(state: Any) -> dict[str, _Tensor]:
    if isinstance(state, dict) and len(state) == 1 and isinstance(next(iter(state.values())), dict):
        held = next(iter(state))
        state = state[held] if held in _HOLDERS else state
    if not isinstance(state, dict) or not all(isinstance(t, _Tensor) for t in state.values()):
        raise ValueError("it holds something other than a dict of tensors")
    if not all(isinstance(name, str) for name in state):
        raise ValueError("the names of its tensors are not texts")
    return state


def _read(file: mmap.mmap, raw: np.ndarray) -> dict[str, np.ndarray]:
    storages: dict[str, _Storage] = {}
    if _load(file, storages) != _MAGIC or _load(file, storages) != _PROTOCOL:
        raise ValueError("it is of another format than PyTorch's legacy one")
    _load(file, storages)  # byte order and integer sizes of the writer
    state, keys = _tensors(_load(file, storages)), _load(file, storages)
    position = file.tell()
    for key in keys:
        if not isinstance(key, str | int):
            raise ValueError("the keys of its storages are not texts or numbers")
        storage = storages.get(str(key))
        count = int.from_bytes(raw[position : position + 8].tobytes(), "little")
        if storage is None or storage.size < 0 or count != storage.size:
            raise ValueError(f"its storage {str(key)[:40]!r} does not match its tensors")
        start, position = position + 8, position + 8 + count * storage.dtype.itemsize
        if position > len(raw):
            raise ValueError(f"it is cut off in storage {str(key)[:40]!r}")
        storage.data, storage.read = raw[start:position].view(storage.dtype), True
    if not all(storage.read for storage in storages.values()):
        raise ValueError("it has tensors without data")
    return {name: _known(tensor.numpy()) for name, tensor in state.items()}


def _load(file: mmap.mmap | io.BytesIO, storages: dict[str, _Storage]) -> Any:
    """The next pickle, after a look through its operations: a memo index of four billion alone takes 32 GB, and a tuple
    of one tuple twice, forty times over, has a hash that is never done. So no tuple is used twice."""
    start, before, tuples = file.tell(), "", set()
    for n, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
        name = operation.name
        puts, gets = name.endswith("PUT"), name.endswith("GET")
        if n > _OPERATIONS or (puts and (argument or 0) > _OPERATIONS):
            raise ValueError("its pickles are larger than those of a state dict")
        if name in _UNUSED or (gets and argument in tuples):
            raise ValueError("its pickles are not those of a state dict")
        if puts and before.startswith("TUPLE"):
            tuples.add(argument)
        if not puts and name not in ("PROTO", "FRAME"):  # which leave the top of the stack as it is
            before = name
    file.seek(start)
    return _RestrictedUnpickler(file, storages).load()
