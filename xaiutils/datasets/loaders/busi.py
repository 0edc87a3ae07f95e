"""BUSI (Al-Dhabyani et al. 2020): breast ultrasound, with outlines of the lesions."""

from dataclasses import replace
from pathlib import Path

from xaiutils.datasets.listing import Listing
from xaiutils.datasets.loaders import folder
from xaiutils.datasets.reading import tree
from xaiutils.registry import check_choice

CLASSES = {"binary": ("benign", "malignant"), "three": ("normal", "benign", "malignant")}


def load(data_dir: Path, *, task: str = "binary", keep_aspect: bool = True) -> Listing:
    """``Dataset_BUSI_with_GT/benign/benign (1).png`` with ``benign (1)_mask.png``, ``..._mask_1.png``: several masks of
    an image are merged.

    ``task``: binary (benign, malignant) or three (with normal). ``keep_aspect`` pads to a square; false squeezes. There
    is no official split, and patients are not known: images of one patient, and pictures that the set holds twice, can
    be in several splits; the leak report finds the latter.
    """
    check_choice("task", task, CLASSES)
    root = Path(data_dir)
    tree.list_folder(root)
    place = next((p for p in (root, *sorted(root.glob("*"))) if (p / "benign").is_dir()), None)
    if place is None:
        raise FileNotFoundError(
            f"{root} has no folder 'benign'. BUSI is free (CC0 in its public copies): download it from "
            "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset or from Kaggle (breast-ultrasound-images-dataset), and "
            "give the folder that holds benign, malignant and normal."
        )
    found = folder.load(place, classes=list(CLASSES[task]), keep_aspect=keep_aspect)
    notes = ["Patients are not recorded: images of one patient may be in several splits."]
    if task == "binary":
        notes.append("Images without a lesion (normal) are left out; task='three' keeps them.")
    return replace(found, notes=[*found.notes, *notes])
