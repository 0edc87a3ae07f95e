"""A picture of a map as a DICOM secondary capture (PS3.3 A.8.1), derived from the file of the image."""

import copy
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

import xaiutils
from xaiutils.datasets.reading.dicom import is_dicom
from xaiutils.file_limits import naming

WARNING = "NOT FOR DIAGNOSIS"
# Whose and of which study: taken over as they are. Of type 2, which are there even if empty, and others.
_EMPTY_OR_SOURCE = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
_SOURCE = ("SpecificCharacterSet", "StudyInstanceUID", "IssuerOfPatientID", "PatientAge", "StudyDescription",
           "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
           "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio",
           "LossyImageCompressionMethod")  # fmt: skip
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")


def capturable(path: Path) -> Dataset:
    """The header of a file from which a capture can be derived; FileError for what is not DICOM, lacks its own UIDs or
    its study's, or has several frames, of which nobody says which was explained."""
    with naming(path, "no secondary capture can be derived from it"):
        if not is_dicom(path):
            raise ValueError("not a DICOM file")
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for name in _NEEDED:
            if not header.get(name):
                raise ValueError(f"it has no {name}")
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise ValueError(f"it has {header.NumberOfFrames} frames")
    return header


def secondary_capture(header: Dataset, picture: np.ndarray, method: str, series: str) -> FileDataset:
    """The data set of ``picture``, uint8 RGB ``(height, width, 3)``, below it a line that says what it is not; derived
    from the file of ``header`` (`capturable`), of the series with the UID ``series``. Spacing and orientation are left
    out: the picture is in pixels of its own."""
    now, method = datetime.now(), method.encode("ascii", "replace").decode()  # whatever the source's character set
    method = method.replace("\\", "/")  # which would part two values
    made = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    for name in _EMPTY_OR_SOURCE:
        setattr(made, name, None)
    for name in (*_EMPTY_OR_SOURCE, *_SOURCE):
        if name in header:
            made[name] = copy.deepcopy(header[name])
    made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = series, None, None
    made.Modality, made.ConversionType, made.PatientOrientation = "OT", "WSD", None
    made.Manufacturer, made.SoftwareVersions = "XAI Workbook", f"xaiutils {xaiutils.__version__}"
    made.SeriesDescription = f"{WARNING}: attribution, {method}"[:64]
    made.ContentDate = made.SeriesDate = made.InstanceCreationDate = made.DateOfSecondaryCapture = now.strftime(
        "%Y%m%d"
    )
    made.ContentTime = made.SeriesTime = made.InstanceCreationTime = made.TimeOfSecondaryCapture = now.strftime(
        "%H%M%S"
    )
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.DerivationDescription = (
        f"Attribution map of a classifier ({method}) over the image as the classifier was given it: resized, perhaps "
        f"cropped or turned. {WARNING}."
    )
    made.ImageComments = f"{WARNING}. What a classifier looked at, for research; it is no finding and has no measure."
    origin = Dataset()
    origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    origin.PurposeOfReferenceCodeSequence, origin.SpatialLocationsPreserved = [_purpose()], "NO"
    made.SourceImageSequence = [origin]
    pixels = with_warning(picture)
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    data = pixels.tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    return made


def _purpose() -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "121322", "DCM"
    code.CodeMeaning = "Source image for image processing operation"
    return code


def with_warning(picture: np.ndarray) -> np.ndarray:
    """uint8 ``(height, width, 3)`` with a line of text below it, and black beside it where it is narrower than that."""
    height, width = picture.shape[0], max(64, picture.shape[1])
    size = max(6, width // 12)
    whole = Image.new("RGB", (width, height + size * 3 // 2))
    whole.paste(Image.fromarray(picture))
    place = (width / 2, height + size * 3 / 4)
    ImageDraw.Draw(whole).text(place, WARNING, (255, 255, 255), ImageFont.load_default(size), anchor="mm")
    return np.asarray(whole)
