"""BUSI (Al-Dhabyani et al. 2020): breast ultrasound, with outlines of the lesions."""

from dataclasses import replace
from pathlib import Path

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.listing import Listing
from xaiutils.datasets.loaders import folder
from xaiutils.datasets.reading import tree
from xaiutils.datasets.reading.picture_file import Preparation
from xaiutils.registry import check_choice

CLASSES = {"binary": ("benign", "malignant"), "three": ("normal", "benign", "malignant")}


def load(data_dir: Path, preparation: Preparation, *, task: str = "binary") -> Listing:
    """``Dataset_BUSI_with_GT/benign/benign (1).png`` with ``benign (1)_mask.png``, ``..._mask_1.png``: several masks of
    an image are merged.

    ``task``: binary (benign, malignant) or three (with normal). There is no official split, and patients are not known:
    images of one patient, and pictures that the set holds twice, can be in several splits; the leak report finds the
    latter.
    """
    check_choice("task", task, CLASSES)
    root = data_dir
    tree.list_folder(root)
    place = next((p for p in (root, *sorted(root.glob("*"))) if (p / "benign").is_dir()), None)
    if place is None:
        raise FileNotFoundError(
            f"{root} has no folder 'benign'. BUSI is free (CC0 in its public copies): download it from "
            "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset or from Kaggle (breast-ultrasound-images-dataset), and "
            "give the folder that holds benign, malignant and normal."
        )
    found = folder.load(place, preparation, classes=list(CLASSES[task]))
    notes = ["Patients are not recorded: images of one patient may be in several splits."]
    if task == "binary":
        notes.append("Images without a lesion (normal) are left out; task='three' keeps them.")
    return replace(found, notes=[*found.notes, *notes])


BUSI = DatasetEntry(
    "busi",
    "Breast ultrasound images (BUSI)",
    load,
    licence="CC0 or CC BY in its public copies; check yours",
    citation="Al-Dhabyani, Gomaa, Khaled & Fahmy 2020, Data in Brief 28",
    access="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset, or Kaggle: give the folder of benign and malignant",
    evidence="the lesion, outlined by radiologists",
    caution="No patients are recorded; pictures occur twice; some carry callipers and writing (Pawlowska 2023).",
    preparation=Preparation(keep_aspect=True),
    preparation_options=("keep_aspect",),
)
