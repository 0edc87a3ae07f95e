"""What the classes of each task are, and which class is the twin of which."""

from dataclasses import dataclass

from xaiutils.registry import check_choice

NORMAL = "normal"
MASSES = ("benign mass", "malignant mass")
CLUSTERS = ("benign calcifications", "malignant calcifications")


@dataclass(frozen=True)
class Task:
    """A classification problem. ``kinds`` gives what a breast of each class holds, several in equal parts;
    ``twins`` the label of each class's counterfactual."""

    class_names: tuple[str, ...]
    kinds: tuple[tuple[str, ...], ...]
    twins: tuple[int, ...]


_BENIGN_OR_MALIGNANT = ("benign", "malignant")
_MARGIN = Task(_BENIGN_OR_MALIGNANT, ((MASSES[0],), (MASSES[1],)), twins=(1, 0))
TASKS = {
    "presence": Task(("normal", "mass"), ((NORMAL,), MASSES), twins=(1, 0)),
    "margin": _MARGIN,
    "calcifications": Task(_BENIGN_OR_MALIGNANT, ((CLUSTERS[0],), (CLUSTERS[1],)), twins=(1, 0)),
    "shortcut": _MARGIN,  # and a marker that goes with the label
    "five": Task(
        (NORMAL, *MASSES, *CLUSTERS), ((NORMAL,), *((kind,) for kind in (*MASSES, *CLUSTERS))), twins=(1, 2, 1, 4, 3)
    ),
}
MULTI_LABEL = "multi_label"  # several labels in one image, each present or not: no `Task` of one class for each image
LABELS = ("mass", "calcification", "marker")
CONCEPT_LABELS = "concepts"  # several labels too: what a breast with a mass shows or does not
CONCEPTS = ("spicules", "grains", "dense tissue", "tag", "pectoral")
TAG_PROBABILITY = 0.95  # of the marker on a malignant image of the shortcut task

DEFAULT_DIFFICULTY = "medium"  # "easy" is solved by looking for bright pixels
# Peak of a mass, or of a cluster's brightest grain, above its background, as a fraction of the grey range.
CONTRASTS = {"easy": (0.25, 0.50), "medium": (0.12, 0.25), "hard": (0.06, 0.12)}
GRAIN_CONTRASTS = {"easy": (0.30, 0.60), "medium": (0.15, 0.30), "hard": (0.08, 0.15)}
RADII = {"easy": (12, 20), "medium": (9, 15), "hard": (9, 15)}  # mm, of masses; in company there must be room
CLUSTER_RADII = (8, 16)  # mm
# Decoys that share the lesion's breast, as far as there is room. Without them the brightest pixel lies in the lesion of
# two images in three, with them of none in a hundred. A frozen ImageNet EfficientNet-Lite0 with a linear head that
# saw 600 images tells masses apart with an AUC of 1.00 on "easy" and "medium".
DECOYS = {"easy": 0, "medium": 9, "hard": 9}


def check_task(task: str, difficulty: str, tag_probability: float) -> None:
    """Raise ValueError that names what is allowed."""
    check_choice("task", task, TASKS)
    check_choice("difficulty", difficulty, CONTRASTS)
    if not 0 <= tag_probability <= 1:  # false for NaN too
        raise ValueError(f"tag_probability={tag_probability!r}; expected a number between 0 and 1.")
