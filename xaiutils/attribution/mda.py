"""Metric-driven attribution (MDA): patches in the order, and with the shares, that insertion and deletion ask for."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls

from xaiutils.attribution.baselines import FILLS, fill_images
from xaiutils.attribution.method import METHODS, SCORES, Method
from xaiutils.attribution.transformer_attribution import TRANSFORMER_ATTRIBUTION
from xaiutils.graph.network import Network
from xaiutils.graph.passes import enlarge, masked_scores
from xaiutils.progress import progress
from xaiutils.registry import Parameter, check_parameters

Score = Callable[[np.ndarray], np.ndarray]  # of rows of shown patches, bool (rows, patches) -> (rows,)
_MOST_CANDIDATES = 28
_HEAVY = 1e4  # weight of the equation that fixes a curve's beginning


def best_order(score: Score, over_hidden: Score, reference: np.ndarray, enough: float) -> np.ndarray:
    """The patches from the most to the least important, whole numbers ``(n,)``.

    First, on what ``score`` hides patches by, the patch that raises the score most is shown, and so on until ``enough``
    of the rise to the whole image is reached. Of the others, on what ``over_hidden`` hides patches by and from nothing,
    the one that raises the score least is shown, and so on: the last of them is the next most important. At each step
    2 floor(sqrt(n)) patches are tried, 28 at most: those that ``reference`` ``(n,)`` has largest (then: smallest).
    """
    n = len(reference)
    width = min(2 * int(n**0.5), _MOST_CANDIDATES)
    low, high = score(np.array([[False] * n, [True] * n]))
    candidates = np.argsort(-reference, kind="stable").tolist()
    first: list[int] = []
    reached = 0.0
    while candidates and reached < enough:
        chosen, found = _next(score, first, candidates[:width], n, np.argmax)
        first.append(chosen)
        candidates.remove(chosen)
        reached = (found - low) / abs(high - low) if high != low else 1.0
    last: list[int] = []
    candidates = candidates[::-1]
    while candidates:
        chosen, _ = _next(over_hidden, last, candidates[:width], n, np.argmin)
        last.append(chosen)
        candidates.remove(chosen)
    return np.array([*first, *last[::-1]])


def _next(
    score: Score, shown: list[int], candidates: list[int], n: int, choose: Callable[[np.ndarray], np.intp]
) -> tuple[int, float]:
    rows = np.zeros((len(candidates), n), bool)
    rows[:, shown] = True
    rows[np.arange(len(candidates)), candidates] = True
    found = score(rows)
    k = int(choose(found))
    return candidates[k], float(found[k])


def metric_curve(score: Score, over_hidden: Score, order: np.ndarray) -> np.ndarray:
    """What is left of the score when the first i patches of the order are gone, ``(n + 1,)`` from 1 to 0: the mean of
    deletion and of 1 - insertion, each as a part of its rise and made monotone."""
    rank = np.argsort(order)
    steps = np.arange(len(order) + 1)[:, None]
    rising = np.maximum.accumulate(_part(score(rank < steps), 0, -1))
    falling = np.minimum.accumulate(_part(over_hidden(rank >= steps), -1, 0))
    return (1 - rising + falling) / 2


def _part(found: np.ndarray, low: int, high: int) -> np.ndarray:
    size = abs(found[high] - found[low])
    return np.clip((found - found[low]) / size, 0, 1) if size else np.zeros_like(found)


def convex_fall(curve: np.ndarray) -> np.ndarray:
    """The convex curve that falls from ``curve[0]`` to ``curve[-1]``, both kept, and is nearest to the curve
    ``(n + 1,)`` in least squares.

    Such a curve is sum_j c_j (j - i)+ above its end, c_j >= 0 and sum_j c_j j = its fall.
    """
    n = len(curve) - 1
    i, j = np.arange(n + 1), np.arange(1, n + 1)
    ramps = np.maximum(j - i[:, None], 0) / j  # each falls from 1
    fall = curve - curve[-1]
    weights = nnls(np.vstack([fall[0] * ramps, _HEAVY * np.ones(n)]), np.append(fall, _HEAVY))[0]
    return curve[-1] + fall[0] * (ramps @ (weights / weights.sum()))


def mda(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    base: str,
    base_parameters: dict,
    cells: int,
    enough: float,
    density: float,
    kappa: float,
    inserted_over: str,
    deleted_to: str,
    score: str,
) -> np.ndarray:
    """The map by which insertion and deletion score best (Walker, Jha & Ewetz 2025, ICLR, Metric-driven attributions
    for vision transformers).

    The order of the n patches is found greedily (`best_order`): by insertion until 0.9 of the score is there
    (``enough``), the others by deletion; candidates come from the map of ``base``. The mean of the order's deletion and
    1 - insertion curve (`metric_curve`) is made convex (`convex_fall`), and patch i of the order gets its drop
    d_i = m_(i-1) - m_i: d_i (1 / pixels + (n - i) / n), the sparse map. The dense map has (n - i) / n wherever that is
    at least ``kappa``, and is brought to the sparse one's largest value; ``density`` mixes them: 0 sparse, 1 dense.
    Values of patches are enlarged bilinearly. A map is 0 where the whole image scores no more than the hidden ones.

    As the authors' code, with these differences: the base is transformer attribution, where theirs is the bidirectional
    one of Chen et al. 2023; insertion begins at a blurred image of one width, where theirs widens the blur until the
    probability is below 0.01; curves are taken patch by patch, where theirs go by rows of pixels. Grey is what their
    zeros are after scaling. Good insertion and deletion scores of this map show that the search worked, not that it is
    right: it must not be ranked by them.

    ValueError: the base is this method.
    """
    if base == "mda":
        raise ValueError("base='mda': metric-driven attribution starts from another method's map; choose one.")
    method = METHODS[base]
    chosen = check_parameters(f"base_parameters of {base!r}", method.parameters, base_parameters)
    reference = method.maps(network, images, targets, batch_size, **chosen)
    height, width = images.shape[1:3]
    rows, columns = (cells, cells) if cells else network.grid(network.cam_layer()) or (1, 1)
    labels = (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width
    pixels = np.bincount(labels.ravel(), minlength=rows * columns)
    values = np.zeros((len(images), rows, columns), np.float32)
    for i in progress(range(len(images)), title="MDA"):
        one, wanted = images[i : i + 1], targets[i : i + 1]

        def over(fill: str, one: np.ndarray = one, wanted: np.ndarray = wanted) -> Score:
            hidden = fill_images(one, fill)

            def scores(shown: np.ndarray) -> np.ndarray:
                members = np.zeros(len(shown), int)

                def masks(batch: slice) -> np.ndarray:
                    return shown[batch][:, labels].astype(np.float32)

                return masked_scores(network, one, hidden, wanted, members, masks, batch_size, score, "MDA")

            return scores

        inserted, deleted = over(inserted_over), over(deleted_to)
        of_patches = np.bincount(labels.ravel(), reference[i].ravel(), minlength=rows * columns) / pixels
        order = best_order(inserted, deleted, of_patches, enough)
        curve = convex_fall(metric_curve(inserted, deleted, order).astype(np.float64))
        values[i].reshape(-1)[order] = _shares(-np.diff(curve), pixels[order], density, kappa)
    return enlarge(values, height, width)


def _shares(drops: np.ndarray, pixels: np.ndarray, density: float, kappa: float) -> np.ndarray:
    n = len(drops)
    rest = (n - np.arange(1, n + 1)) / n
    sparse = np.maximum(drops, 0) * (1 / pixels + rest)
    dense = np.where(sparse >= kappa, rest, sparse)
    if dense.max() > 0:
        dense = dense / dense.max() * sparse.max()
    return (1 - density) * sparse + density * dense


MDA = Method(
    name="mda",
    title="MDA",
    family="perturbation",
    paper="Walker, Jha & Ewetz 2025, ICLR, Metric-driven attributions for vision transformers",
    signed=False,
    cost="2 sqrt(patches), 28 at most, forwards for each patch",
    compute=mda,
    needs="attention",
    check=TRANSFORMER_ATTRIBUTION.check,
    suits=("vit",),
    parameters=(
        Parameter("base", str, "transformer_attribution", "method whose map says which patches are tried"),
        Parameter("base_parameters", dict, {}, "parameters of the base method"),
        Parameter("cells", int, 0, "patches to a side of the image; 0: the model's own", 0, 256),
        Parameter("enough", float, 0.9, "part of the score that is ordered by insertion", 0.0, 1.0),
        Parameter("density", float, 0.0, "0: the sparse map; 1: the dense one", 0.0, 1.0),
        Parameter("kappa", float, 0.005, "values at least this large are levelled in the dense map", 0.0, 1.0),
        Parameter("inserted_over", str, "blur", "the image that patches are inserted into", choices=FILLS),
        Parameter("deleted_to", str, "grey", "what deleted patches show", choices=FILLS),
        Parameter("score", str, "probability", "the score of the curves", choices=SCORES),
    ),
)
