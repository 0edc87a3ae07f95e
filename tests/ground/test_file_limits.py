"""Files that somebody else made: what would hang, fill the memory or end the process is refused by name."""

import gzip
import json
import os
import pickle
import plistlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fuzz_samples import dicom, dicoms
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

import xaiutils as xai
from xaiutils import file_limits
from xaiutils.batch.matrix import MatrixError, read_matrix
from xaiutils.datasets.loaders import mnist
from xaiutils.datasets.loaders.inbreast import read_contours
from xaiutils.datasets.loaders.mnist import read_idx
from xaiutils.datasets.reading import decoder_process
from xaiutils.datasets.reading.decoder_process import DECODER, DecoderProcess
from xaiutils.datasets.reading.dicom import read_dicom
from xaiutils.datasets.reading.frames import read_frame, read_mask_file
from xaiutils.datasets.reading.picture_file import PictureFile, read_picture_file
from xaiutils.datasets.reading.tables import read_csv, read_excel
from xaiutils.file_limits import FileError, check_pixels, check_regular, large_pictures, naming
from xaiutils.models.npz_checkpoint import read_npz
from xaiutils.models.torch_checkpoint import read_torch_checkpoint
from xaiutils.workbook import Run
from xaiutils.yaml_text import load_yaml


def png(height: int, width: int, colour: int = 6) -> bytes:
    """A PNG file whose header alone says its size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


# Sizes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(13_000, 13_000), (60_000, 60_000), (1, 89_478_486)])
def test_a_picture_that_is_too_large_is_refused_by_its_header(tmp_path, size):
    (tmp_path / "x.png").write_bytes(png(*size))
    for read in (read_frame, read_mask_file):
        with pytest.raises(FileError, match=r"x\.png.*MAX_PIXELS"):
            read(tmp_path / "x.png")


def test_the_limit_of_pixels_can_be_changed(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "x.png")
    monkeypatch.setattr(file_limits, "MAX_PIXELS", 899)
    with pytest.raises(FileError, match=r"30 x 30 pixels, more than xaiutils\.file_limits\.MAX_PIXELS \(899\)"):
        read_frame(tmp_path / "x.png")
    monkeypatch.setattr(file_limits, "MAX_PIXELS", 900)
    assert read_frame(tmp_path / "x.png").pixels.shape == (30, 30, 3)


def test_one_large_picture_at_a_time(monkeypatch):
    """Small ones do not wait; a thread that reads picture and mask does not wait for itself."""
    monkeypatch.setattr(file_limits, "MAX_PIXELS", 900)
    inside, most, lock = 0, 0, threading.Lock()

    def read():
        nonlocal inside, most
        with large_pictures():
            check_pixels(20, 20)
            check_pixels(25, 25)  # its mask
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=read) for _ in range(5)]
    for thread in threads:
        thread.start()
    with large_pictures():
        check_pixels(10, 10)
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert most == 1
    with pytest.raises(RuntimeError), large_pictures():
        check_pixels(25, 25)
        raise RuntimeError
    with large_pictures():  # the turn was given back
        check_pixels(25, 25)


@pytest.mark.parametrize(("tags", "words"), [
    ({"Rows": 60_000, "Columns": 60_000}, "MAX_PIXELS"),
    ({"Rows": 0}, "0 x 20 pixels"),
    ({"NumberOfFrames": 100_000}, "it holds 100000 pictures"),
])  # fmt: skip
def test_a_dicom_header_is_checked_before_its_pixels(tmp_path, tags, words):
    (tmp_path / "x.dcm").write_bytes(dicom(ExplicitVRLittleEndian, **tags))
    with pytest.raises(FileError, match=words):
        read_dicom(tmp_path / "x.dcm")


def test_a_deflated_file_is_measured_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(file_limits, "MAX_PIXELS", 10_000)
    (tmp_path / "x.dcm").write_bytes(dicom(DeflatedExplicitVRLittleEndian, ImageComments="x"))
    assert read_dicom(tmp_path / "x.dcm").pixels.shape == (24, 20)
    (tmp_path / "x.dcm").write_bytes(dicom(DeflatedExplicitVRLittleEndian, EncapsulatedDocument=bytes(200_000)))
    with pytest.raises(FileError, match="unpacked it has more than 80,000 bytes"):
        read_dicom(tmp_path / "x.dcm")


@pytest.mark.parametrize("after", [b"", b"\0"])  # that makes an odd length even
def test_a_large_deflated_file_is_measured_to_its_end(tmp_path, after):
    large = dicom(DeflatedExplicitVRLittleEndian, EncapsulatedDocument=bytes(3 * 2**20))
    (tmp_path / "x.dcm").write_bytes(large + after)
    assert read_dicom(tmp_path / "x.dcm").pixels.shape == (24, 20)


def test_packed_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_IDX_BYTES", 10_000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(10_001)))
    with pytest.raises(FileError, match=r"x\.gz: it is damaged \(unpacked it has more than 10,000 bytes"):
        read_idx(tmp_path / "x.gz")
    monkeypatch.setattr(file_limits, "MAX_TEXT_BYTES", 1000)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 300))
    with pytest.raises(FileError, match="more than 1,000 bytes"):
        read_csv(tmp_path / "x.csv.gz")
    monkeypatch.setattr(file_limits, "MAX_FILE_BYTES", 10_000)
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(10_000))
    with pytest.raises(FileError, match="unpacked it has 80,128 bytes"):
        read_npz(tmp_path / "x.npz")


def test_an_array_that_says_more_than_it_has(tmp_path):
    header = b"\x93NUMPY\x01\0" + struct.pack("<H", 118)
    header += b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("a.npy", header + bytes(80))
    with pytest.raises(FileError, match=r"x\.npz.*says \(999999999999,\) of float64 and has 80 bytes"):
        read_npz(tmp_path / "x.npz")


def _checkpoint(tensor: bytes, size: int = 6) -> bytes:
    def text(word: str) -> bytes:
        return b"X" + struct.pack("<i", len(word)) + word.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += b"\x8a\x08" + struct.pack("<q", size) + b"tQ"
    head = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
    state = b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + tensor + b"\x89NtRs."
    return head + state + pickle.dumps(["0"], 2) + struct.pack("<q6f", size, *range(6))


@pytest.mark.parametrize(("content", "words"), [
    (_checkpoint(b"K\0(J\xff\xff\xff\x7ftK\0\x85"), "more elements than its storage"),  # stride 0
    (_checkpoint(b"K\0K\x06\x85K\x01\x85", 2**40), "cut off"),
    (pickle.dumps(0x1950A86A20F9469CFC6C, 2)[:-1] + b"r\xff\xff\xff\xff.", "larger than those of a state dict"),
    (b"", "not a PyTorch checkpoint"),
    (b"\x80\x02\x8d" + struct.pack("<q", 2**40) + b"x.", "not a readable PyTorch checkpoint"),
])  # fmt: skip
def test_a_checkpoint_allocates_nothing_that_it_does_not_hold(tmp_path, content, words):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(FileError, match=rf"x\.pth: .*{words}"):
        read_torch_checkpoint(tmp_path / "x.pth")


def test_property_lists_are_read_as_text_alone(tmp_path):
    """A binary one of 300 bytes holds an array a billion times."""
    bomb: list = ["(1, 2)"]
    for _ in range(30):
        bomb = [bomb, bomb]
    (tmp_path / "a.xml").write_bytes(plistlib.dumps({"Images": bomb}, fmt=plistlib.FMT_BINARY))
    with pytest.raises(FileError, match=r"a\.xml: it is not a plist of contours"):
        read_contours(tmp_path / "a.xml")
    deep = "<array>" * 50_000 + "</array>" * 50_000
    for key in ("Name", "Point_px"):
        text = f"<plist><dict><key>Images</key><array><dict><key>ROIs</key><array><dict><key>{key}</key>{deep}"
        (tmp_path / "a.xml").write_text(text + "</dict></array></dict></array></dict></plist>")
        with pytest.raises(FileError, match=r"a\.xml"):
            read_contours(tmp_path / "a.xml")


@pytest.mark.parametrize(("text", "words"), [
    ("a: &a [x, x]\n" + "\n".join(f"b{i}: &b{i} [*{'a' if i == 0 else f'b{i - 1}'}, *{'a' if i == 0 else f'b{i - 1}'}]"
                                  for i in range(40)), "with its anchors written out"),
    ("a: &a [*a]", "nested too deeply"),
    ("[" * 5000, "nested too deeply"),
    ("? [a, b]\n: 1", "unhashable|no text"),
    ("a: 2026-99-99", "month"),
    ("a: !!int x", "invalid literal"),
    ("a: [", "expected"),
    ("- " * 600_000, "characters"),
])  # fmt: skip
def test_yaml_is_measured_before_it_is_built(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        load_yaml(text)
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(MatrixError, match=r"m\.yaml cannot be read"):
        read_matrix(tmp_path / "m.yaml")


def test_anchors_of_honest_yaml_are_read():
    assert load_yaml("a: &a {x: 1}\nb: *a\nc: [*a, *a]") == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}]}
    assert load_yaml("") is None


# Kinds of files -----------------------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s.png"))
    for name, kind in (("pipe", "a named pipe"), ("folder", "a folder"), ("device", "a device"), ("s", "a socket")):
        for suffix in (".png", ".dcm"):
            path = tmp_path / f"{name}{suffix}"
            if suffix == ".dcm":
                path.symlink_to(tmp_path / f"{name}.png")
            for read in (read_frame, read_mask_file, read_idx, read_npz, read_torch_checkpoint, read_contours):
                with pytest.raises(FileError, match=f"it is {kind}, not a file"):
                    read(path)
    server.close()
    with pytest.raises(FileError, match="null byte"):
        check_regular("a\0b")
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nothing")


def test_whatever_a_file_causes_becomes_one_error_that_names_it():
    for error in (KeyError("bbox"), OverflowError("x"), RecursionError(), MemoryError(), NotImplementedError("y"),
                  zlib.error("z"), struct.error("s"), AttributeError("a"), UnicodeDecodeError("utf-8", b"", 0, 1, "u"),
                  ZeroDivisionError(), EOFError()):  # fmt: skip
        with pytest.raises(FileError) as caught, naming("some/file.png"):
            raise error
        assert str(caught.value).startswith("some/file.png: ")
        assert len(str(caught.value)) > len("some/file.png: ") + 3
    with pytest.raises(KeyboardInterrupt), naming("x"):
        raise KeyboardInterrupt
    again = pickle.loads(pickle.dumps(FileError("a/b", "c")))
    assert (again.path, again.reason) == (Path("a/b"), "c")


# A process of their own for native decoders -----------------------------------------------------------------------


def test_a_decoder_that_dies_costs_one_file(tmp_path, monkeypatch):
    """Ten good images beside it are read, whatever order they come in; the next file has a new process."""
    good = dict(dicoms())["lossless.dcm"]
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            (tmp_path / label / f"{i}.dcm").write_bytes(good)
    bad = tmp_path / "a" / "2.dcm"
    child = (Path(decoder_process.__file__).parent / "decoder_child.py").read_text()
    deadly = child.replace("    import pydicom\n", f"    if path == {str(bad)!r}: os.abort()\n    import pydicom\n", 1)
    assert deadly != child
    (tmp_path / "child.py").write_text(deadly)
    monkeypatch.setattr(decoder_process, "CHILD_SCRIPT", tmp_path / "child.py")
    DECODER.close()
    with pytest.warns(UserWarning, match=r"1 of 8 files could not be read: 2\.dcm .*decoder died \(SIGABRT\)"):
        ds = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path)
    assert len(ds) == 7
    DECODER.close()


def test_a_decoder_that_hangs_is_ended(tmp_path, monkeypatch):
    child = (Path(decoder_process.__file__).parent / "decoder_child.py").read_text()
    (tmp_path / "child.py").write_text(child.replace("    import pydicom\n", "    import time; time.sleep(60)\n", 1))
    monkeypatch.setattr(decoder_process, "CHILD_SCRIPT", tmp_path / "child.py")
    decoder, started = DecoderProcess(), time.monotonic()
    with pytest.raises(ValueError, match="not done after 0.5 s"):
        decoder.ask("dicom", tmp_path / "x.dcm", timeout=0.5)
    assert time.monotonic() - started < 10
    decoder.close()


def test_the_process_is_kept_and_imports_no_tensorflow(tmp_path):
    path = tmp_path / "x.dcm"
    path.write_bytes(dict(dicoms())["jls.dcm"])
    expected = read_dicom(path).pixels
    first = DECODER.pid
    results = []
    threads = [threading.Thread(target=lambda: results.append(read_dicom(path).pixels)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    for found in results:
        np.testing.assert_array_equal(found, expected)
    assert DECODER.pid == first
    maps = Path(f"/proc/{first}/maps")
    assert not maps.exists() or "tensorflow" not in maps.read_text()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileError, match="cannot be decoded|no pixel data"):
        read_dicom(path)


def test_the_process_ends_with_its_parent(tmp_path):
    (tmp_path / "x.dcm").write_bytes(dict(dicoms())["lossless.dcm"])
    code = (
        "import sys, runpy; from pathlib import Path\n"
        "decoder = runpy.run_path(sys.argv[2])['DECODER']; decoder.ask('dicom', Path(sys.argv[1]))\n"
        "print(decoder.pid)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.dcm"), decoder_process.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    pid = int(done.stdout)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_every_syntax_says_the_same(tmp_path):
    """What is decoded elsewhere is what is decoded here; JPEG baseline is never given to gdcm."""
    plain = None
    for name, raw in dicoms():
        (tmp_path / name).write_bytes(raw)
        if name in ("rle.dcm", "j2k.dcm", "lossless.dcm", "jls.dcm"):
            found = read_dicom(tmp_path / name).pixels
            plain = found if plain is None else plain
            np.testing.assert_array_equal(found, plain, err_msg=name)
    DECODER.close()
    read_dicom(tmp_path / "jpeg.dcm")
    read_dicom(tmp_path / "j2k.dcm")
    assert DECODER.pid is None


def test_the_file_on_which_gdcm_aborts(kit):
    """One byte more in a Huffman table that no pixel uses: the picture is the same."""
    folder = kit / "faults"
    if not folder.is_dir():
        pytest.skip("this kit has no faults")
    good, bad = (read_dicom(folder / f"jpeg_{name}.dcm").pixels for name in ("good", "abort"))
    np.testing.assert_array_equal(good, bad)


def test_excel_is_read_apart(tmp_path):
    from fuzz_samples import sheets

    (tmp_path / "a.xlsx").write_bytes(dict(sheets())["a.xlsx"])
    table = read_excel(tmp_path / "a.xlsx")
    assert table.columns.tolist() == ["A1", "B1", "C1", "1.5"]
    assert table.iloc[2].tolist() == ["A4", "B4", "C4", "4.5"]
    far = tmp_path / "far.xlsx"
    with zipfile.ZipFile(tmp_path / "a.xlsx") as old, zipfile.ZipFile(far, "w") as new:
        for name in old.namelist():
            text = old.read(name).replace(b'r="D4"', b'r="XFD1048576"')
            new.writestr(name, text)
    with pytest.raises(FileError, match=r"far\.xlsx: it cannot be read as an Excel table"):
        read_excel(far)  # 17 billion cells
    assert len(read_excel(tmp_path / "a.xlsx")) == 3


# Small faults that were tracebacks --------------------------------------------------------------------------------


def test_columns_that_differ_by_blanks(tmp_path):
    (tmp_path / "index.csv").write_text("image,label,label \na.png,x,y\n")
    with pytest.raises(FileError, match=r"index\.csv.*two of its columns are called 'label'"):
        xai.load_dataset("table", "all", data_dir=tmp_path)


def test_a_nul_in_a_path(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a\0b.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}],
    }))  # fmt: skip
    with pytest.raises(FileError, match=r"notes\.json"):
        xai.load_dataset("coco", "all", data_dir=tmp_path, background="b")
    with pytest.raises(FileError, match="null byte"):
        read_picture_file(PictureFile(tmp_path / "a\0b.png"), 16)


def test_arguments_of_a_wrong_kind_are_told_at_once(tmp_path):
    for options, words in (
        ({"seed": 2**32}, r"seed=4294967296; expected an integer from 0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "3"}, "seed='3'"),
        ({"data_dir": 5}, "data_dir=5"),
        ({"data_dir": "a\0b"}, "data_dir"),
        ({"mask_pattern": 3}, "mask_pattern=3; expected a text"),
        ({"window": [3]}, r"window=\[3\]; expected \[centre, width\]"),
        ({"window": [1, -2]}, "window="),
        ({"frames": "all"}, "frames='all' is unknown"),
    ):
        for label in "ab":
            (tmp_path / label).mkdir(exist_ok=True)
        with pytest.raises((ValueError, TypeError), match=words):
            xai.load_dataset("folder", "all", **{"data_dir": tmp_path, **options})


def test_a_matrix_with_entries_of_a_wrong_kind(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("name: n\ndatasets: [digits]\nmodels: [vit_mini16]\nmethods: [grad_cam]\n"
                    "notebooks: {folder: 5}\ncommon: {data_dir: ~nosuchuser/x}\nseeds: [4294967296]\n")  # fmt: skip
    problems = "\n".join(read_matrix(path)[1])
    assert "5" in problems
    assert "data_dir='~nosuchuser/x' is no folder" in problems
    assert "seeds: 4294967296 is not an integer from 0 to 2**32 - 1" in problems


def test_a_runs_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.delenv("XAI_RUNS", raising=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="results cannot be written to .* give another folder by runs_dir"):
        Run("01", {"dataset": "digits", "runs_dir": str(tmp_path / "file"), "run_name": "a"})


def test_a_copy_of_a_picture_follows_how_it_was_asked_for(tmp_path):
    """The cache's key holds the window and the frames."""
    from xaiutils.datasets.reading.picture_file import Preparation

    (tmp_path / "x.dcm").write_bytes(dicom(ExplicitVRLittleEndian))
    path = shutil.copy(tmp_path / "x.dcm", tmp_path / "y.dcm")
    one, other, again = (
        read_picture_file(PictureFile(Path(path), (), Preparation(window=w)), 16).pixels
        for w in ((2048, 4096), (2048, 100), (2048, 4096))
    )
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, again)
    assert pydicom.dcmread(path).Rows == 24
