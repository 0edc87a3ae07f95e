"""Small valid files of every kind that a reader takes, for `fuzz`."""

import gzip
import io
import json
import pickle
import plistlib
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

HEIGHT, WIDTH = 24, 20
GREY = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
WIDE = GREY.astype(np.uint16) * 16


def pictures() -> Iterator[tuple[str, bytes]]:
    """Name and content of common picture files."""
    rgb = Image.fromarray(np.stack([GREY, GREY.T.reshape(GREY.shape), 255 - GREY], axis=-1))
    yield "grey.png", _saved(Image.fromarray(GREY), "PNG")
    yield "rgba.png", _saved(rgb.convert("RGBA"), "PNG")
    yield "palette.png", _saved(rgb.quantize(16), "PNG")
    yield "wide.png", _saved(Image.fromarray(WIDE), "PNG")
    yield "moving.png", _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)])
    yield "rgb.jpg", _saved(rgb, "JPEG")
    yield "progressive.jpg", _saved(rgb, "JPEG", progressive=True)
    yield "two.jpg", _saved(rgb, "MPO", save_all=True, append_images=[rgb])
    yield "rgb.bmp", _saved(rgb, "BMP")
    for name, options in (("raw", None), ("deflate", "tiff_adobe_deflate"), ("lzw", "tiff_lzw"), ("jpeg", "jpeg")):
        yield f"{name}.tif", _saved(rgb, "TIFF", compression=options)
    yield "wide.tif", _saved(Image.fromarray(WIDE), "TIFF")
    yield "float.tif", _saved(Image.fromarray(GREY.astype(np.float32) - 100), "TIFF")
    yield "signed.tif", _saved(Image.fromarray(GREY.astype(np.int32) - 100), "TIFF")
    yield "pages.tif", _saved(rgb, "TIFF", save_all=True, append_images=[rgb])
    yield "one.gif", _saved(rgb.quantize(16), "GIF")
    yield "moving.gif", _saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])
    yield "lossy.webp", _saved(rgb, "WEBP")
    yield "lossless.webp", _saved(rgb, "WEBP", lossless=True)


def masks() -> Iterator[tuple[str, bytes]]:
    """The same kinds as masks."""
    mask = Image.fromarray((GREY > 128).astype(np.uint8) * 255)
    for name, kind in (("a.png", "PNG"), ("b.tif", "TIFF"), ("c.gif", "GIF"), ("d.jpg", "JPEG")):
        yield name, _saved(mask, kind)
    yield "e.png", _saved(mask.convert("1"), "PNG")
    yield "f.dcm", dicom(ExplicitVRLittleEndian)


def dicoms() -> Iterator[tuple[str, bytes]]:
    """DICOM files in every transfer syntax for which an encoder is at hand."""
    yield "explicit.dcm", dicom(ExplicitVRLittleEndian, WindowCenter=2048, WindowWidth=4000)
    yield "implicit.dcm", dicom(ImplicitVRLittleEndian, RescaleSlope=1, RescaleIntercept=-1024)
    yield "deflated.dcm", dicom(DeflatedExplicitVRLittleEndian, PhotometricInterpretation="MONOCHROME1")
    yield "jpeg.dcm", dicom(JPEGBaseline8Bit, PixelSpacing=[0.1, 0.1])
    yield "rle.dcm", _compressed(RLELossless)
    yield "j2k.dcm", _by_gdcm(gdcm.TransferSyntax.JPEG2000Lossless)
    yield "lossless.dcm", _by_gdcm(gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    yield "jls.dcm", _by_gdcm(gdcm.TransferSyntax.JPEGLSLossless)


def dicom(syntax, **tags) -> bytes:
    """One grey picture, 12 of 16 bits, or 8 bits as JPEG."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientID = meta.MediaStorageSOPClassUID, "1.2.3", "P1"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PixelRepresentation = HEIGHT, WIDTH, 1, 0
    ds.PhotometricInterpretation, ds.Modality = "MONOCHROME2", "MG"
    packed = syntax == JPEGBaseline8Bit
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (8, 8, 7) if packed else (16, 12, 11)
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.PixelData = encapsulate([_saved(Image.fromarray(GREY), "JPEG")]) if packed else WIDE.astype("<u2").tobytes()
    ds["PixelData"].VR = "OB" if packed else "OW"
    return _bytes(ds)


def _compressed(syntax) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(dicom(ExplicitVRLittleEndian)))
    ds.compress(syntax, generate_instance_uid=False)
    return _bytes(ds)


def _by_gdcm(kind: int) -> bytes:
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        path.write_bytes(dicom(ExplicitVRLittleEndian))
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kind))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return path.read_bytes()


def _bytes(ds: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def coco() -> Iterator[tuple[str, bytes]]:
    """Annotations for pictures 0.png to 5.png."""
    marks = [
        {"bbox": [2, 3, 8, 9]},
        {"bbox": [2, 3, 8, 9], "segmentation": [[2, 3, 10, 3, 10, 12, 2, 12]]},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [50, 20, 4, 20, HEIGHT * WIDTH - 94]}, "iscrowd": 1},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "b1d04d0bN"}},
        {"bbox": [0, 0, 20, 24], "segmentation": []},
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(6)],
        "categories": [{"id": 1, "name": "cyst"}, {"id": 2, "name": "mass"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1 + i % 2, **m} for i, m in enumerate(marks)],
    }
    yield "notes.json", json.dumps(content).encode()


def tables() -> Iterator[tuple[str, bytes]]:
    """Tables of the same pictures, as two programs write them."""
    labels = "ababab"
    rows = [f'{i}.png,{label},"2,3,{4 + i},5",p{i}' for i, label in enumerate(labels)]
    yield "index.csv", "\n".join(["image,label,boxes,patient", *rows]).encode()
    rows = [f"{i}.png;{label};2|3|{4 + i}|5;p{i}" for i, label in enumerate(labels)]
    yield "index.csv", "\r\n".join(["image;label;boxes;patient", *rows]).encode("utf-8-sig")


def sheets() -> Iterator[tuple[str, bytes]]:
    """An Excel table, written by hand."""
    main, office = "http://schemas.openxmlformats.org/", "officeDocument/2006/relationships"
    cells = "".join(
        f'<row r="{r}">'
        + "".join(f'<c r="{c}{r}" t="inlineStr"><is><t>{c}{r}</t></is></c>' for c in "ABC")
        + f'<c r="D{r}"><v>{r}.5</v></c></row>'
        for r in range(1, 5)
    )
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{main}package/2006/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" '
        f'ContentType="{kind}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" '
        f'ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{main}package/2006/relationships"><Relationship Id="r1" '
        f'Type="{main}{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}spreadsheetml/2006/main" xmlns:r="{main}{office}"><sheets>'
        '<sheet name="Sheet1" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{main}package/2006/relationships"><Relationship Id="r1" '
        f'Type="{main}{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}spreadsheetml/2006/main"><dimension ref="A1:D4"/>'
        f"<sheetData>{cells}</sheetData></worksheet>",
    }
    yield "a.xlsx", _zipped({name: text.encode() for name, text in parts.items()})


def contours() -> Iterator[tuple[str, bytes]]:
    """INbreast's two layouts, and a binary property list, which is no layout of it."""
    points = ["(2, 3)", "(10, 3)", "(10, 12.5)", "(2, 12)"]
    region = {"Name": "Mass", "Point_px": points, "NumberOfPoints": 4}
    rois = {"Images": [{"ImageIndex": 0, "ROIs": [region, {"Name": "Calcification", "Point_px": points[:1]}]}]}
    yield "a.xml", plistlib.dumps(rois)
    yield "b.xml", plistlib.dumps({"ROIPoints": [p.replace("(", "{").replace(")", "}") for p in points], "Name": "x"})
    yield "c.xml", plistlib.dumps(rois, fmt=plistlib.FMT_BINARY)


def idx() -> Iterator[tuple[str, bytes]]:
    """MNIST's format, plain and packed."""
    raw = b"\0\0\x08\x03" + struct.pack(">3I", 5, 6, 4) + GREY.tobytes()[:120]
    yield "plain", raw
    yield "packed.gz", gzip.compress(raw)


def npz() -> Iterator[tuple[str, bytes]]:
    """Weights in NumPy's format, stored and compressed."""
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, kernel=GREY.astype(np.float32), bias=np.arange(4.0), step=np.int64(3))
        yield "a.npz", out.getvalue()


def checkpoints() -> Iterator[tuple[str, bytes]]:
    """A state dict in PyTorch's legacy format, its pickle written by hand."""

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<i", len(word)) + word.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x06NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(K\x02K\x03t(K\x03K\x01t\x89NtR"
    out = io.BytesIO()
    for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(head, out, protocol=2)
    out.write(b"\x80\x02}" + text("w") + tensor + b"s.")
    pickle.dump(["0"], out, protocol=2)
    out.write(struct.pack("<q6f", 6, *range(6)))
    yield "a.pth", out.getvalue()


def safetensors() -> Iterator[tuple[str, bytes]]:
    """Tensors of three types, the file written by hand."""
    body = np.arange(6, dtype="<f4").tobytes() + np.arange(4, dtype="<f2").tobytes() + b"\0\0\x80\x3f"
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
        "scale": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [32, 36]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield "a.safetensors", struct.pack("<Q", len(text)) + text + body


def matrices() -> Iterator[tuple[str, bytes]]:
    """A matrix of runs, and a recipe."""
    yield (
        "m.yaml",
        (
            b"name: &n trial\ncommon: {image_size: 64, n_train: 20}\ndatasets: [digits, {mnist: {data_dir: /tmp}}]\n"
            b"models: [vit_mini16]\nseeds: [0, 1]\nmethods:\n  - grad_cam\n  - smoothgrad: {n_samples: 4}\n"
            b"exclude:\n  - {dataset: digits, method: grad_cam}\ncell_hours: 1e-1\n"
        ),
    )


def markers() -> Iterator[tuple[str, bytes]]:
    """Of a finished job of a batch."""
    key = {"parameters": {"seed": 0, "methods": ["grad_cam"]}, "notebook": "5f", "code": "77", "inputs": {"01/a": "9c"}}
    facts = {"key": key, "product": "ab", "seconds": 3.2, "peak_mb": 900, "files": {"tables/x.csv": [12, "4d"]}}
    yield "done.json", json.dumps(facts).encode()


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _zipped(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return out.getvalue()
