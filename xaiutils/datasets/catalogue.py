"""What data sets there are: `DATASETS`, declared once for the datasheet and the notebooks' parameters."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xaiutils.datasets import phantom
from xaiutils.datasets.loaders import (
    busi,
    cats_vs_dogs,
    cbis_ddsm,
    coco,
    digits,
    folder,
    inbreast,
    mimic_cxr,
    mnist,
    oxford_pets,
    table,
)
from xaiutils.registry import Registry


@dataclass(frozen=True)
class DatasetEntry:
    """A data set by name.

    ``reads_files``: it takes ``data_dir``. ``generated``: made from seeds, without an end. ``access`` says how to get
    it, ``evidence`` what its masks mark.
    """

    name: str
    title: str
    load: Callable[..., Any]
    licence: str
    citation: str
    access: str
    evidence: str
    caution: str
    reads_files: bool = True
    generated: bool = False

    @property
    def options(self) -> Mapping[str, Any]:
        """The loader's options with their defaults."""
        parameters = inspect.signature(self.load).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


DATASETS: Registry[DatasetEntry] = Registry("data set")

DATASETS.add(
    DatasetEntry(
        "phantom",
        "Mammogram phantom",
        phantom.load,
        licence="this project's (MIT)",
        citation="after Burgess 2001, Chen 2012, Badano 2018 (VICTRE) and de Sisternes 2015; see the module",
        access="generated from the seed",
        evidence="the lesion; its counterfactual twin gives the exact pixels that decide",
        caution="Didactic: larger lesions, higher contrast and simpler anatomy than a patient's.",
        reads_files=False,
        generated=True,
    )
)
DATASETS.add(
    DatasetEntry(
        "digits",
        "Handwritten digits, 8 x 8",
        digits.load,
        licence="CC BY 4.0",
        citation="Alpaydin & Kaynak 1998, UCI Machine Learning Repository",
        access="installed with scikit-learn",
        evidence="the stroke",
        caution="43 writers; who wrote which digit is not recorded.",
        reads_files=False,
    )
)
DATASETS.add(
    DatasetEntry(
        "mnist",
        "MNIST",
        mnist.load,
        licence="CC BY-SA 3.0",
        citation="LeCun, Bottou, Bengio & Haffner 1998, Proceedings of the IEEE 86",
        access="downloaded into data_dir/mnist (12 MB), or your IDX files below data_dir",
        evidence="the stroke",
        caution="Digits of 28 pixels enlarged: models see blur that no camera makes.",
    )
)
DATASETS.add(
    DatasetEntry(
        "cats_vs_dogs",
        "Cats & Dogs (Asirra)",
        cats_vs_dogs.load,
        licence="research use, Microsoft's terms of Asirra",
        citation="Elson, Douceur, Howell & Saul 2007, ACM CCS",
        access="downloaded into data_dir/cats_vs_dogs (825 MB), or your Kaggle zip or folder below data_dir",
        evidence="none",
        caution="Two of 25,000 files are corrupt; they are named and skipped.",
    )
)
DATASETS.add(
    DatasetEntry(
        "oxford_pets",
        "Oxford-IIIT Pets",
        oxford_pets.load,
        licence="CC BY-SA 4.0",
        citation="Parkhi, Vedaldi, Zisserman & Jawahar 2012, CVPR",
        access="downloaded into data_dir/oxford_pets (811 MB), or your images and trimaps below data_dir",
        evidence="the animal, from trimaps",
        caution="The animal fills two fifths of a picture: chance levels of localisation are high.",
    )
)
DATASETS.add(
    DatasetEntry(
        "busi",
        "Breast ultrasound images (BUSI)",
        busi.load,
        licence="CC0 or CC BY in its public copies; check yours",
        citation="Al-Dhabyani, Gomaa, Khaled & Fahmy 2020, Data in Brief 28",
        access="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset, or Kaggle: give the folder of benign and malignant",
        evidence="the lesion, outlined by radiologists",
        caution="No patients are recorded; pictures occur twice; some carry callipers and writing (Pawlowska 2023).",
    )
)
DATASETS.add(
    DatasetEntry(
        "cbis_ddsm",
        "CBIS-DDSM",
        cbis_ddsm.load,
        licence="CC BY 3.0",
        citation="Lee, Gimenez, Hoogi, Miyake, Gorovoy & Rubin 2017, Scientific Data 4",
        access="TCIA, https://www.cancerimagingarchive.net/collection/cbis-ddsm/ (163 GB DICOM and four CSV files), "
        "Kaggle's JPEG export, or JPEGs with COCO boxes",
        evidence="the findings' outlines, or their boxes",
        caution="Scanned film. Every image has a finding: there is no normal one. 31 patients are in both splits when "
        "masses and calcifications are pooled.",
    )
)
DATASETS.add(
    DatasetEntry(
        "inbreast",
        "INbreast",
        inbreast.load,
        licence="research use, on request",
        citation="Moreira, Amaral, Domingues, Cardoso, Cardoso & Cardoso 2012, Academic Radiology 19",
        access="on request from the authors: AllDICOMs, AllXML, INbreast.xls or .csv into data_dir",
        evidence="outlines drawn by experts",
        caution="Labels are BI-RADS, a suspicion; only 56 cases have a biopsy. 115 patients: intervals are wide.",
    )
)
DATASETS.add(
    DatasetEntry(
        "mimic_cxr",
        "MIMIC-CXR-JPG",
        mimic_cxr.load,
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        citation="Johnson et al. 2019, MIMIC-CXR-JPG, arXiv:1901.07042",
        access="PhysioNet, to credentialed users: tables and 'files' into data_dir",
        evidence="none",
        caution="Labels are drawn from reports by a program.",
    )
)
for name, title, loader in (
    ("folder", "Your images in class folders", folder.load),
    ("table", "Your images listed in a table", table.load),
    ("coco", "Your images with COCO annotations", coco.load),
):
    DATASETS.add(
        DatasetEntry(
            name,
            title,
            loader,
            licence="yours",
            citation="yours",
            access="give its folder as data_dir",
            evidence="your masks, boxes or outlines, where there are any",
            caution="State patients and splits where you know them.",
        )
    )
