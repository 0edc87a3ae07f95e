"""DICOM files: what a grey value means, and files that are broken, compressed or unusual."""

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless
from trees import write_dicom

import xaiutils as xai
from xaiutils.datasets import find_leaks
from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.dicom import is_dicom, read_dicom
from xaiutils.file_limits import FileError

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def test_a_plain_file_keeps_its_values(tmp_path):
    frame = read_dicom(write_dicom(tmp_path / "a.dcm", RAMP, 12, ImagerPixelSpacing=[0.07, 0.08]))
    np.testing.assert_array_equal(frame.pixels, RAMP)
    assert frame.pixels.dtype == np.float32
    assert (frame.top, frame.spacing_mm) == (4095.0, (0.07, 0.08))


def test_monochrome1_is_inverted(tmp_path):
    frame = read_dicom(write_dicom(tmp_path / "a.dcm", RAMP, 12, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(frame.pixels, 4095.0 - RAMP)


def test_rescaling_and_signed_pixels(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12, RescaleSlope=2, RescaleIntercept=-1000)
    frame = read_dicom(path)
    np.testing.assert_allclose(frame.pixels, 2.0 * RAMP)  # from the lowest value that the bits can mean
    assert frame.top == 2 * 4095
    ds = pydicom.dcmread(path)
    ds.PixelRepresentation, ds.BitsStored, ds.HighBit, ds.RescaleSlope, ds.RescaleIntercept = 1, 16, 15, 1, 0
    ds.PixelData = (RAMP.astype(np.int16) - 2000).tobytes()
    ds.save_as(path)
    np.testing.assert_array_equal(read_dicom(path).pixels, RAMP - 2000.0 + 32768)


def test_the_window_of_the_header_is_applied(tmp_path):
    frame = read_dicom(write_dicom(tmp_path / "a.dcm", RAMP, 12, WindowCenter=1000.5, WindowWidth=1001))
    inside = (RAMP > 500) & (RAMP < 1500)
    assert (frame.pixels[RAMP <= 500] == 0).all()
    np.testing.assert_allclose(frame.pixels[RAMP > 1500], frame.top)
    expected = (RAMP[inside] - 500.0) / 1000 * frame.top  # PS3.3 C.11.2.1.2
    np.testing.assert_allclose(frame.pixels[inside], expected, atol=1.5e-3 * frame.top)


def test_a_look_up_table_is_applied(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12)
    ds, lut = pydicom.dcmread(path), pydicom.Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 14], np.arange(4096, 0, -1).astype("<u2").tobytes()
    ds.VOILUTSequence = Sequence([lut])
    ds.save_as(path)
    frame = read_dicom(path)
    np.testing.assert_array_equal(frame.pixels, 4096.0 - RAMP)
    assert frame.top == 2**14 - 1


def compress(path, syntax):
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


@pytest.mark.parametrize(
    "syntax",
    [
        gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        gdcm.TransferSyntax.JPEG2000Lossless,
        gdcm.TransferSyntax.JPEGLSLossless,
    ],
)
def test_compressed_files_are_read(tmp_path, syntax):
    path = compress(write_dicom(tmp_path / "a.dcm", RAMP, 12), syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_dicom(path).pixels, RAMP)


def test_run_lengths_are_read(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12)
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless)
    ds.save_as(path)
    np.testing.assert_array_equal(read_dicom(path).pixels, RAMP)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-40]), "cannot be decoded"),
        (lambda p: p.write_bytes(p.read_bytes()[:200]), "no pixel data|ends too early|lacks"),
        (lambda p: p.write_bytes(b"no DICOM at all" * 20), "not a DICOM file"),
        (lambda p: p.write_bytes(b""), "not a DICOM file|ends too early"),
        (lambda p: _without(p, "Rows"), "lacks Rows"),
        (lambda p: _without(p, "PixelData"), "no pixel data"),
        (lambda p: _with(p, NumberOfFrames=2, Rows=8), "2 pictures"),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path, spoil, words):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12)
    spoil(path)
    with pytest.raises(ValueError, match=words):
        read_dicom(path)


def _without(path, name):
    ds = pydicom.dcmread(path)
    delattr(ds, name)
    ds.save_as(path)


def _with(path, **tags):
    ds = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(path)


def test_colours(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 65535, (8, 8, 3)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", RAMP, 16)
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    _with(path, Rows=8, Columns=8, PixelData=rgb.tobytes(), **colour)
    np.testing.assert_array_equal(read_dicom(path).pixels, np.rint(rgb * (255 / 65535)))
    _with(path, PhotometricInterpretation="HSV")
    with pytest.raises(ValueError, match="its colours are HSV"):
        read_dicom(path)


def test_a_window_without_width_is_none(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12, WindowCenter=100, WindowWidth=0)
    np.testing.assert_array_equal(read_dicom(path).pixels, RAMP)


def test_dicom_without_a_suffix_is_known_by_its_mark(tmp_path):
    path = write_dicom(tmp_path / "IM000001", RAMP, 12)
    assert is_dicom(path)
    (tmp_path / "README").write_text("no")
    assert not is_dicom(tmp_path / "README")
    assert not is_dicom(tmp_path / "missing")


def test_dicom_files_in_class_folders(tmp_path):
    for label in ("a", "b"):
        for i in range(3):
            write_dicom(tmp_path / label / f"{i}.dcm", RAMP if label == "a" else RAMP[::-1], 12)
    ds = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path)
    np.testing.assert_array_equal(ds.pixels[0, ..., 0], np.rint(RAMP * (255 / 4095)))
    (tmp_path / "a" / "0.dcm").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"0\.dcm \(not a DICOM file"):
        assert len(xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path)) == 5


def test_patients_of_dicom_headers_stay_in_one_split(tmp_path):
    def write(patients, folder):
        for i in range(40):
            tags = {"PatientID": patients[i // 2], "ViewPosition": "CC", "ImageLaterality": "LR"[i % 2]}
            write_dicom(folder / "ab"[i // 2 % 2] / f"{i}.dcm", RAMP + i, 13, **tags)
        return {s: xai.load_dataset("folder", s, image_size=16, data_dir=folder) for s in ("train", "val", "test")}

    known = write([f"P{i}" for i in range(20)], tmp_path / "known")
    assert not [leak for leak in find_leaks(known) if leak["kind"] == "patient"]
    assert sum(len(set(d.patients)) for d in known.values()) == 20
    assert known["test"].metadata["side"].isin(["L", "R"]).all()
    assert known["test"].notes == ["20 patients are distinguished by the PatientID of DICOM headers."]
    alike = write(["anonymous"] * 20, tmp_path / "alike")
    assert alike["test"].patients is None
    assert "do not tell patients apart" in alike["test"].notes[0]
    blank = write(["", *(f"P{i}" for i in range(19))], tmp_path / "blank")
    assert any(p.startswith("unknown (") for d in blank.values() for p in d.patients)


def test_the_kits_dicom_file(kit):
    frame = read_dicom(next((kit / "cbis_ddsm").glob("*.dcm")))
    assert frame.pixels.shape == (1129, 1065)
    assert (frame.pixels.min(), frame.pixels.max(), frame.top) == (15308, 60287, 65535)


@given(st.data())
def test_damaged_bytes_never_crash_the_reader(tmp_path_factory, data):
    """Any change of some bytes gives pixels, or an error that a data set names and goes on from."""
    folder = tmp_path_factory.mktemp("fuzz")
    raw = bytearray(write_dicom(folder / "a.dcm", RAMP, 12).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.dcm").write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    try:
        frame = read_dicom(folder / "a.dcm")
    except Exception as error:  # pydicom raises many kinds for nonsense in the header; `assemble` catches them
        assert not isinstance(error, MemoryError | RecursionError)
    else:
        assert np.isfinite(frame.pixels).all()
        assert frame.pixels.ndim in (2, 3)


def test_16_bit_png_and_dicom_agree(tmp_path):
    for label in ("a", "b"):
        for i in range(3):
            write_dicom(tmp_path / "dicom" / label / f"{i}.dcm", 16 * RAMP, 16)
            (tmp_path / "png" / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(16 * RAMP).save(tmp_path / "png" / label / f"{i}.png")
    one, other = (xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path / k) for k in ("dicom", "png"))
    np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("name", ["IM00012", "1.2.840.113619.2.55.3.604688119", "scan.0017", "X.PNG", "slice.img"])
@pytest.mark.parametrize("preamble", [True, False])
def test_dicom_is_known_by_its_content(tmp_path, name, preamble):
    """Whatever it is called, with the mark after a preamble or without both."""
    pixels = np.arange(64).reshape(8, 8) * 4
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=8, PatientID="p7")
    plain = dicom.read_dicom(path).pixels
    raw = path.read_bytes()
    other = tmp_path / name
    other.write_bytes(raw if preamble else raw[132:])
    assert dicom.is_dicom(other)
    assert dicom.read_header(other).patient == "p7"
    np.testing.assert_array_equal(dicom.read_dicom(other).pixels, plain)
    for content in (b"", b"\x08\0", b"\x08\0\x10\0" + b"x" * 200, raw[:100], b"\x89PNG" + raw[4:100]):
        other.write_bytes(content)
        assert not dicom.is_dicom(other)


# Windows and slopes: PS3.3 C.11.2.1 ----------------------------------------------------------------------------------

VALUES = np.arange(16, dtype=np.uint16).reshape(4, 4)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # LINEAR: x <= c - .5 - (w - 1) / 2 is black, x > c - .5 + (w - 1) / 2 white, ((x - (c - .5)) / (w - 1) + .5)
        ({"WindowCenter": 8, "WindowWidth": 5}, lambda x: np.clip((x - 7.5) / 4 + 0.5, 0, 1)),
        ({"WindowCenter": 8, "WindowWidth": 1}, lambda x: x > 7.5),
        ({"WindowCenter": [8, 3], "WindowWidth": [5, 2]}, lambda x: np.clip((x - 7.5) / 4 + 0.5, 0, 1)),
        (
            {"WindowCenter": 8, "WindowWidth": 5, "VOILUTFunction": "LINEAR_EXACT"},
            lambda x: np.clip((x - 8) / 5 + 0.5, 0, 1),
        ),
        (
            {"WindowCenter": 8, "WindowWidth": 5, "VOILUTFunction": "SIGMOID"},
            lambda x: 1 / (1 + np.exp(-4 * (x - 8) / 5)),
        ),
        (
            {"WindowCenter": 1.0, "WindowWidth": 0.8, "VOILUTFunction": "LINEAR_EXACT", "RescaleSlope": 0.1,
             "RescaleIntercept": 0},
            lambda x: np.clip((x / 10 - 1) / 0.8 + 0.5, 0, 1),
        ),
        (
            {"WindowCenter": 1.0, "WindowWidth": 0.8, "VOILUTFunction": "SIGMOID", "RescaleSlope": 0.1,
             "RescaleIntercept": 0},
            lambda x: 1 / (1 + np.exp(-4 * (x / 10 - 1) / 0.8)),
        ),
        (  # a negative slope turns values over, and nothing else
            {"WindowCenter": -8, "WindowWidth": 5, "VOILUTFunction": "LINEAR_EXACT", "RescaleSlope": -1,
             "RescaleIntercept": 0},
            lambda x: np.clip((8 - x) / 5 + 0.5, 0, 1),
        ),
        (
            {"WindowCenter": 8, "WindowWidth": 5, "PhotometricInterpretation": "MONOCHROME1"},
            lambda x: 1 - np.clip((x - 7.5) / 4 + 0.5, 0, 1),
        ),
    ],
)  # fmt: skip
def test_windows_by_the_standard(tmp_path, tags, expected):
    frame = read_dicom(write_dicom(tmp_path / "a.dcm", VALUES, 12, **tags))
    np.testing.assert_allclose(frame.pixels / frame.top, expected(VALUES.astype(float)), atol=1e-6)


def test_the_callers_window_goes_before_the_files(tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm", VALUES, 12, WindowCenter=1, WindowWidth=-3, RescaleSlope=2, RescaleIntercept=-10
    )
    frame = read_dicom(path, window=(0, 8))
    np.testing.assert_allclose(frame.pixels / frame.top, np.clip((2.0 * VALUES - 10) / 8 + 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"RescaleSlope": "nan", "RescaleIntercept": "0"},
        {"RescaleSlope": "inf", "RescaleIntercept": "0"},
        {"RescaleSlope": "1e308", "RescaleIntercept": "0"},
        {"RescaleSlope": "1e-30", "RescaleIntercept": "1"},
        {"RescaleSlope": "1", "RescaleIntercept": "1e300"},
        {"RescaleSlope": "1", "RescaleIntercept": "nan"},
        {"WindowCenter": "100", "WindowWidth": "inf"},
        {"WindowCenter": "100", "WindowWidth": "nan"},
        {"WindowCenter": "100", "WindowWidth": "-10"},
        {"WindowCenter": "100", "WindowWidth": "0.8"},
        {"WindowWidth": "10", "WindowCenter": "nan"},
        {"WindowWidth": "10"},
        {"WindowCenter": "1", "WindowWidth": "-0.8", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "1", "WindowWidth": "10", "VOILUTFunction": "CUBIC"},
        {"BitsStored": 17},
        {"BitsStored": 0},
        {"BitsAllocated": 12},
        {"PixelRepresentation": 3},
        {"SamplesPerPixel": 2},
        {"SamplesPerPixel": 3},
        {"PixelSpacing": ["nan", "0.1"]},
        {"PixelSpacing": ["inf", "0.1"]},
        {"PixelSpacing": ["-0.1", "0.1"]},
        {"ImagerPixelSpacing": ["0.1"]},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_broken_header_is_refused_by_name(tmp_path, tags):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12)
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(ds, name, value)
        pydicom.dcmwrite(path, ds)
    wrong = list(tags)[-1] if "VOILUTFunction" not in tags and "RescaleSlope" not in tags else ""
    with pytest.raises(FileError, match=rf"a\.dcm: its header says .*{wrong}"):
        read_dicom(path)


def test_more_bits_than_the_header_states(tmp_path):
    """All that are allocated count then, in every such file, and the set says so."""
    path = write_dicom(tmp_path / "a" / "0.dcm", RAMP * 4, 12)
    frame = read_dicom(path)
    assert (frame.top, frame.bits_exceeded) == (65535.0, True)
    for label in "ab":
        for i in range(1, 4):
            write_dicom(tmp_path / label / f"{i}.dcm", RAMP, 12)
    ds = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path)
    assert (
        "1 image has values beyond the bits that their DICOM headers state; all that are allocated count: a/0.dcm."
        in ds.notes
    )


def test_a_modality_table_has_its_own_range(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12)
    ds, lut = pydicom.dcmread(path), pydicom.Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 8], (np.arange(4096) // 16).astype("<u2").tobytes()
    lut.ModalityLUTType = "US"
    ds.ModalityLUTSequence = Sequence([lut])
    ds.save_as(path)
    frame = read_dicom(path)
    assert frame.top == 255
    np.testing.assert_array_equal(frame.pixels, RAMP // 16)
    ds.ModalityLUTSequence[0].LUTDescriptor = [4096, 0, 200]
    ds.save_as(path)
    with pytest.raises(FileError, match="LUTDescriptor"):
        read_dicom(path)


def test_several_frames(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12)
    _with(path, NumberOfFrames=2, Rows=8)
    with pytest.raises(FileError, match="it holds 2 pictures"):
        read_dicom(path)
    np.testing.assert_array_equal(read_dicom(path, frames="first").pixels, RAMP[:8])


def test_an_enhanced_file_says_it_in_its_groups(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, 12)
    ds, group = pydicom.dcmread(path), pydicom.Dataset()
    for macro, tags in (
        ("PixelValueTransformationSequence", {"RescaleSlope": 2, "RescaleIntercept": -1000}),
        ("PixelMeasuresSequence", {"PixelSpacing": [0.2, 0.3]}),
    ):
        item = pydicom.Dataset()
        for name, value in tags.items():
            setattr(item, name, value)
        setattr(group, macro, Sequence([item]))
    ds.SharedFunctionalGroupsSequence = Sequence([group])
    ds.save_as(path)
    frame = read_dicom(path)
    assert (frame.top, frame.spacing_mm) == (8190.0, (0.2, 0.3))


def test_an_overlay_in_the_unused_bits_is_no_part_of_the_values(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP + 4096, 12)
    ds = pydicom.dcmread(path)
    ds.add_new((0x6000, 0x0102), "US", 12)
    ds.save_as(path)
    frame = read_dicom(path)
    assert (frame.top, frame.bits_exceeded) == (4095.0, False)
    np.testing.assert_array_equal(frame.pixels, RAMP)
