"""From nothing, or from ImageNet's weights? By the pictures of You 2022 (section 4.1) a network from scratch looks at
what only goes with the class, a pretrained one at what makes it.

Here two networks of one kind are trained on images of which nearly all of one class have a mark, and few of the others.
What planting the mark adds to the probability of its class is how far a network uses it, and is worth reading where the
network has learnt something: so how often it is right stands beside it, with marks as in training, by the toss of a
coin, and the other way round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.planted_mark import MARKS, Mark, confound, mark_found, mark_use, plant
from xaiutils.evaluation.studies.xrelevance_networks import Training
from xaiutils.evaluation.studies.xrelevance_study import layer_maps
from xaiutils.graph.predict import predict
from xaiutils.statistics.summaries import summarise

STARTS: Mapping[str, str | None] = MappingProxyType({"scratch": None, "imagenet": "imagenet"})
SQUARE = Mark("", place="bottom_left", height=0.1, opacity=0.5)


@dataclass(frozen=True)
class Transfer:
    """What `transfer` found, a row for each start and image:

    ``hits``: start, marks (of `planted_mark.MARKS`), image_id, value (1 where the answer is right). ``use``: by start,
    the table of `mark_use` for the marked class, with the image's label (``class``). ``share``: start, layer, image_id,
    value: how much of Relevance-CAM's map for the marked class lies in the mark. ``chance``: the mark's share of the
    image. All have patient_id where patients are known.
    """

    hits: pd.DataFrame
    use: Mapping[str, pd.DataFrame]
    share: pd.DataFrame
    chance: float

    def accuracy(self, seed: int = 0) -> pd.DataFrame:
        """`summarise` of the hits, a row for each start and kind of marks."""
        return summarise(self.hits, ["start", "marks"], seed=seed)

    def learnt(self, seed: int = 0) -> dict[str, bool]:
        """By start, whether more images with marks as in training are called right than always naming the most frequent
        class does, by the whole 95 % interval."""
        most = self.hits.drop_duplicates("image_id")["class"].value_counts(normalize=True).max()
        own = self.accuracy(seed).query("marks == 'iid'").set_index("start")["low"]
        return {start: bool(low > most) for start, low in own.items()}

    def uses(self) -> pd.DataFrame:
        """Means by start and class: p_without, p_with (the marked class' probability), turned, and n."""
        table = pd.concat(self.use, names=["start"]).reset_index("start")
        groups = table.groupby(["start", "class"], sort=False)
        return groups[["p_without", "p_with", "turned"]].mean().assign(n=groups.size())


def transfer(
    training: Training,
    model: str,
    splits: Sequence[ImageDataset],
    marked_class: int = 1,
    mark: Mark = SQUARE,
    n_images: int = 40,
    seed: int = 0,
    starts: Mapping[str, str | None] = STARTS,
) -> Transfer:
    """Train ``model`` of `xaiutils.MODELS` from each of ``starts``, a random one and ImageNet's weights, on the
    training and validation images of ``splits`` with the mark on 95 % of ``marked_class`` and 5 % of the others; and
    test all.

    ``n_images`` test images at most have maps. ``starts``: weights as `build_model` takes them, by name, so that a
    network without weights of ImageNet can begin at a file. Raises ValueError for weights that the model cannot have.
    """
    if not starts:
        raise ValueError("starts={}: name at least one start and its weights (None: random).")
    shown = [confound(ds, marked_class, mark, seed=seed) for ds in splits[:2]]
    test = splits[2]
    marked, tests = plant(test, mark), {kind: confound(test, marked_class, mark, 0.95, kind, seed) for kind in MARKS}
    ids = pd.DataFrame({"image_id": test.ids, "class": test.label_texts()})
    if test.patients is not None:
        ids["patient_id"] = list(test.patients)
    hits, use, share = [], {}, []
    for start, weights in starts.items():
        network = training.network(model, shown, seed, weights)
        for kind, ds in tests.items():
            right = predict(network, ds.images).argmax(axis=1) == ds.labels
            hits.append(ids.assign(start=start, marks=kind, value=right.astype(float)))
        use[start] = mark_use(network, test, marked, marked_class).merge(ids, on="image_id", validate="one_to_one")
        few = marked.sample(min(n_images, len(marked)), seed)
        maps = layer_maps(network, few.images, np.full(len(few), marked_class), ["relevance_cam"])
        of_few = use[start][use[start]["image_id"].isin(few.ids)]
        for (_, layer), found in maps.items():
            table = mark_found(few, {layer: found}, of_few, ["relevance_mass"])
            share.append(table.assign(start=start, layer=layer).merge(ids, on="image_id"))
    height, width = test.pixels.shape[1:3]
    chance = float(mark.drawn(height, width, mark.place)[1].mean())
    return Transfer(pd.concat(hits, ignore_index=True), use, pd.concat(share, ignore_index=True), chance)
