"""Efficient MPRT (Hedström et al. 2023, arXiv:2401.06465): is a map of a model that has forgotten everything
in less order?

The randomisation test compares maps stage by stage, by a similarity that noise can move. This compares only how complex
the maps of the trained model and of one with random weights are, each by itself.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd


def histogram_entropy(maps: np.ndarray, n_bins: int = 100) -> np.ndarray:
    """Entropy, in nats, of the histogram of each map's values between its smallest and largest; ``(n,)``; 0 for a
    constant map."""
    found = []
    for one in np.asarray(maps, np.float64):  # float32 has too few numbers for the bins of a nearly constant map
        share = np.histogram(one, n_bins)[0] / one.size
        share = share[share > 0]
        found.append(float(-(share * np.log(share)).sum()))
    return np.abs(np.array(found))


def complexity_rise(
    maps: Mapping[str, np.ndarray], random: Mapping[str, np.ndarray], image_ids: list[str], n_bins: int = 100
) -> pd.DataFrame:
    """(entropy of the random model's map - that of the trained model's) / that of the trained model's, for each map.

    Args:
        maps: by method, float32 ``(n, height, width)``, of the trained model.
        random: the same methods and images, of the model with random weights (`random_weight_maps`).
        n_bins: of the histograms; the paper: 100.

    Returns:
        A row for each method and image: method, image_id, trained, random (entropies, in nats) and value: above 0 the
        map lost order with the weights; 0 or less, it did not. NaN where the trained model's map is constant.

    Raises ValueError where a method of ``maps`` is not in ``random``, or there is none.
    """
    if not maps or not set(maps) <= set(random):
        raise ValueError(f"maps of {list(maps)}, and of {list(random)} with random weights; expected the same methods.")
    tables = []
    for method, of_trained in maps.items():
        before, after = histogram_entropy(of_trained, n_bins), histogram_entropy(random[method], n_bins)
        value = np.divide(after - before, before, out=np.full(len(before), np.nan), where=before > 0)
        columns = {"method": method, "image_id": image_ids, "trained": before, "random": after, "value": value}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
