"""A seeded generator of mammogram-like images whose lesions, and so whose evidence, are known.

Every image is a pure function of its seed and a few options: nothing is stored or downloaded. The recipe follows
published numbers: power-law parenchyma (Burgess et al., Med Phys 2001; Chen et al., Med Phys 2012: exponent near 3),
the density classes of VICTRE (Badano et al., JAMA Netw Open 2018), smooth oval masses for the benign class and
irregular, spiculated ones for the malignant class (after de Sisternes et al., Med Phys 2015). Both classes share one
distribution of energy (sum of squares), contrast, place and background, so that only the form of the mass
distinguishes them.

    p = phantom.generate(seed=7)
    twin = phantom.counterfactual(p)          # the other margin; everything else, noise too, unchanged
    empty = phantom.generate(7, lesion=False)  # the same breast without the mass

Unless ``difficulty="easy"``, the lesion has company: findings of its size and brightness that twins share and that
decide nothing.

`generate_ct` draws slices of chest CT, with or without contrast medium in the blood (`phantom.ct`).

Lengths are in millimetres on a field of 224 mm, hence in pixels at ``size=224``.
"""

from xaiutils.datasets.phantom.ct import CTPhantom, generate_ct
from xaiutils.datasets.phantom.image import (
    ConceptPhantom,
    LabelledPhantom,
    Phantom,
    counterfactual,
    generate,
    generate_concepts,
    generate_labelled,
    seed_labels,
)
from xaiutils.datasets.phantom.splits import (
    LANDMARKS,
    SPLIT_SIZES,
    TAGS,
    concept_images,
    concept_twins,
    image_seeds,
    load,
)
from xaiutils.datasets.phantom.tasks import CONCEPTS, CONTRASTS, DEFAULT_DIFFICULTY, LABELS, MULTI_LABEL, TASKS

__all__ = [
    "CONCEPTS",
    "CONTRASTS",
    "DEFAULT_DIFFICULTY",
    "LABELS",
    "LANDMARKS",
    "MULTI_LABEL",
    "SPLIT_SIZES",
    "TAGS",
    "TASKS",
    "CTPhantom",
    "ConceptPhantom",
    "LabelledPhantom",
    "Phantom",
    "concept_images",
    "concept_twins",
    "counterfactual",
    "generate",
    "generate_concepts",
    "generate_ct",
    "generate_labelled",
    "image_seeds",
    "load",
    "seed_labels",
]
