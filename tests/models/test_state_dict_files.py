"""Safetensors files written by hand: what is read, and what is refused by name; PyTorch's own bfloat16 and holders."""

import json
import struct
import zipfile

import numpy as np
import pytest
from fuzz_samples import safetensors

from xaiutils.file_limits import FileError
from xaiutils.models.torch_checkpoint import read_state_dict

F16 = {"dtype": "F16", "shape": [2]}


def file_of(path, header, body, more=0):
    """Eight bytes of the header's length (too large by ``more``), the header, the numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) + more) + text + body)
    return path


def test_a_file_written_by_hand_is_read(tmp_path):
    ((name, raw),) = safetensors()
    (tmp_path / name).write_bytes(raw)
    found = read_state_dict(tmp_path / name)
    assert {n: (x.dtype.name, x.shape) for n, x in found.items()} == {
        "w": ("float32", (2, 3)), "b": ("float16", (4,)), "scale": ("float32", (2, 1)),
    }  # fmt: skip
    np.testing.assert_array_equal(found["w"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["b"], [0, 1, 2, 3])
    np.testing.assert_array_equal(found["scale"], [[0], [1]])  # 0x0000 and 0x3f80 of bfloat16


DAMAGED = {
    "overlapping": ({"a": F16 | {"data_offsets": [0, 4]}, "b": F16 | {"data_offsets": [2, 6]}}, bytes(6)),
    "one place for two": ({"a": F16 | {"data_offsets": [0, 4]}, "b": F16 | {"data_offsets": [0, 4]}}, bytes(4)),
    "out of range": ({"a": F16 | {"data_offsets": [0, 4]}}, bytes(2)),
    "backwards": ({"a": F16 | {"data_offsets": [4, 0]}}, bytes(4)),
    "a gap": ({"a": F16 | {"data_offsets": [4, 8]}}, bytes(8)),
    "something behind": ({"a": F16 | {"data_offsets": [0, 4]}}, bytes(8)),
    "another size than the shape": ({"a": {"dtype": "F16", "shape": [3], "data_offsets": [0, 4]}}, bytes(4)),
    "a negative side": ({"a": {"dtype": "F16", "shape": [-2], "data_offsets": [0, 4]}}, bytes(4)),
    "sides that overflow": ({"a": {"dtype": "F16", "shape": [2**62, 4], "data_offsets": [0, 0]}}, b""),
    "an unknown type": ({"a": {"dtype": "F17", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
    "no offsets": ({"a": F16}, bytes(4)),
    "no JSON": (b"{nope}", b""),
    "no header": (b"", b""),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files_are_refused(what, tmp_path):
    path = file_of(tmp_path / "a.safetensors", *DAMAGED[what])
    with pytest.raises(FileError, match=r"a.safetensors: it is not a readable safetensors file \("):
        read_state_dict(path)


@pytest.mark.parametrize("more", [1, 2**20, 2**40, 2**63])
def test_a_header_longer_than_the_file_is_refused(more, tmp_path):
    header = {"a": F16 | {"data_offsets": [0, 4]}}
    with pytest.raises(FileError, match="a.safetensors: it is not a readable safetensors file"):
        read_state_dict(file_of(tmp_path / "a.safetensors", header, bytes(4), more))
    (tmp_path / "a.safetensors").write_bytes(b"\1\2\3")
    with pytest.raises(FileError, match="a.safetensors: it is not a readable safetensors file"):
        read_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8)])
def test_types_that_are_no_weights_are_refused_by_name(kind, size, tmp_path):
    header = {"w": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}}
    path = file_of(tmp_path / "a.safetensors", header, bytes(2 * size))
    with pytest.raises(FileError, match=f"its tensor 'w' is of type {kind}; save it as F32, F16 or BF16"):
        read_state_dict(path)


def zipped(path, state: bytes, storage: bytes):
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a/data.pkl", state)
        out.writestr("a/data/0", storage)
    return path


def pickled(held=(), kind="BFloat16Storage"):
    """{"w": a tensor of two numbers}, within dicts of the keys ``held``; the pickle written by hand."""

    def text(word):
        return b"X" + struct.pack("<i", len(word)) + word.encode()

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu") + b"K\x02NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(K\x02t(K\x01t\x89NtR"
    return (
        b"\x80\x02"
        + b"".join(b"}" + text(key) for key in held)
        + b"}"
        + text("w")
        + tensor
        + b"s" * (len(held) + 1)
        + b"."
    )


def test_pytorchs_bfloat16_is_read_as_float32(tmp_path):
    found = read_state_dict(zipped(tmp_path / "a.pth", pickled(), b"\x80\x3f\x00\xc0"))
    assert found["w"].dtype == np.float32
    np.testing.assert_array_equal(found["w"], [1, -2])


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_state_dict_within_a_dict_of_its_own_is_read(key, tmp_path):
    found = read_state_dict(zipped(tmp_path / "a.pth", pickled([key], "HalfStorage"), np.float16([1, 3]).tobytes()))
    np.testing.assert_array_equal(found["w"], [1, 3])


@pytest.mark.parametrize("held", [["optimizer"], ["model", "model"]])
def test_other_dicts_of_dicts_are_refused(held, tmp_path):
    with pytest.raises(FileError, match="a.pth: .*something other than a dict of tensors"):
        read_state_dict(zipped(tmp_path / "a.pth", pickled(held, "HalfStorage"), bytes(4)))
