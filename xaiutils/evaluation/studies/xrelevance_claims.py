"""The nine claims of the XRelevance-CAM thesis as numbers with intervals (You 2022; see `xrelevance_study`).

Each claim is a number that is above 0 where the claim is true. Its interval is a percentile bootstrap over patients, or
images, for which the strongest competitor is found anew in each draw. "Holds" and "the reverse" need an interval beside
0; where networks were trained from several seeds, all seeds must agree too.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from xaiutils.evaluation.studies.xrelevance_networks import DROPOUT
from xaiutils.evaluation.studies.xrelevance_study import LAYERS, published
from xaiutils.statistics.bootstrap import draw_units, percentile_interval
from xaiutils.statistics.summaries import UNIT

OURS, BASELINE, AXIOM = "xrelevance_cam", "relevance_cam", "xgrad_cam"
ALL_LAYERS = "4+3+2+1"
HOLDS, REVERSE, OPEN = "holds", "the reverse", "cannot be told"
CLAIMS = {
    "transfer": "Networks trained from scratch use what only goes with the class; pretrained ones do not (4.1)",
    "selective": "Selective kernels improve every map (5.1.2)",
    "best": "XRelevance-CAM has the best IoU, mean of four layers (5.1.3)",
    "aggregate": "All layers together are better than the last, and XRelevance-CAM's is best (5.1.4)",
    "other network": "On ResNet-50 its map of all layers is best, too (5.2)",
    "randomisation": "Its maps lose what they had when weights are drawn anew (5.3)",
    "dropout": "It stays best when units drop out: layers 1 to 3 and all together (5.4)",
    "dilemma": "Maps that people find right need not be faithful to the model: IoU against confidence drop (5.5)",
    "conservation": "Its maps conserve the score better than XGrad-CAM's, at each layer (5.6)",
}
UNITS = {
    "transfer": "change of p by the mark, scratch - pretrained",
    "selective": "IoU, with - without",
    "best": "IoU, less the best other",
    "aggregate": "IoU, the smaller of both leads",
    "other network": "IoU, less the best other",
    "randomisation": "margin less what is left of the similarity",
    "dropout": "IoU, less the best other",
    "dilemma": "- Spearman's rho over methods x layers",
    "conservation": "log10 of the ratio of errors, worst layer",
}


def _finding(claim: str, value: float, low: float, high: float, n: int, agree: bool = True) -> dict[str, object]:
    verdict = HOLDS if low > 0 and agree else REVERSE if high < 0 and agree else OPEN
    return {"claim": claim, "ours": value, "low": low, "high": high, "n": n, "verdict": verdict}


def _values(table: pd.DataFrame, metric: str = "iou") -> tuple[np.ndarray, pd.MultiIndex, np.ndarray]:
    """Values ``(images, cells)`` of images that have them all, the cells (method, layer), and each image's unit."""
    rows = table[table["metric"] == metric]
    wide = rows.pivot_table("value", "image_id", ["method", "layer"], sort=False).dropna()
    return wide.to_numpy(float), wide.columns, _units(rows, wide.index)


def _units(table: pd.DataFrame, image_ids: pd.Index) -> np.ndarray:
    """What the bootstrap draws, numbered: each image's patient where the table has patients, else the image."""
    owners = table.drop_duplicates("image_id").set_index("image_id").loc[image_ids]
    return np.unique(np.asarray(owners.get(UNIT, image_ids)), return_inverse=True)[1]


def _bootstrapped(
    values: np.ndarray, units: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], n_resamples: int, seed: int
) -> tuple[float, float, float]:
    """``statistic`` of the means of the columns ``(draws, cells)``, and its 95 % interval."""
    drawn = draw_units(units.max() + 1, n_resamples, seed)[:, units].astype(float)
    low, high = percentile_interval(statistic(drawn @ values / drawn.sum(axis=1, keepdims=True)), 0.95)
    return float(statistic(values.mean(axis=0, keepdims=True))[0]), low, high


def _of(cells: pd.MultiIndex, means: np.ndarray, method: str, layers: Sequence[str]) -> np.ndarray:
    """Mean over layers of one method, ``(draws,)``."""
    return means[:, [cells.get_loc((method, layer)) for layer in layers]].mean(axis=1)


def _lead(cells: pd.MultiIndex, means: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    """XRelevance-CAM's mean over layers less the best other method's, ``(draws,)``."""
    others = [m for m in cells.unique("method") if m != OURS]
    best = np.max([_of(cells, means, m, layers) for m in others], axis=0)
    return _of(cells, means, OURS, layers) - best


def lead(
    claim: str, table: pd.DataFrame, layers: Sequence[str], above: str = "", n_resamples: int = 1000, seed: int = 0
) -> dict[str, object]:
    """How far XRelevance-CAM's mean IoU over ``layers`` is above that of the best other method, from `map_scores`.
    ``above``: a layer whose own map of XRelevance-CAM it must exceed too; the smaller of both leads counts."""
    values, cells, units = _values(table)

    def statistic(means: np.ndarray) -> np.ndarray:
        found = _lead(cells, means, layers)
        gain = _of(cells, means, OURS, layers) - _of(cells, means, OURS, [above]) if above else found
        return np.minimum(found, gain)

    return _finding(claim, *_bootstrapped(values, units, statistic, n_resamples, seed), len(values))


def selective(with_kernels: pd.DataFrame, without: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> dict:
    """IoU, mean of all methods and the four layers, of networks with selective kernels less that of those without, from
    tables of `map_scores` of the same images with a column ``seed`` of the training."""
    both = [t[(t["metric"] == "iou") & t["layer"].isin(LAYERS)] for t in (with_kernels, without)]
    means = [t.groupby(["image_id", "seed"])["value"].mean().unstack() for t in both]
    change = (means[0] - means[1]).dropna()
    units, signs = _units(both[0], change.index), np.sign(change.mean())
    found = _bootstrapped(change.to_numpy(), units, lambda x: x.mean(axis=1), n_resamples, seed)
    return _finding("selective", *found, len(change), bool((signs == signs.iloc[0]).all()))


def transfer(
    scratch: pd.DataFrame, pretrained: pd.DataFrame, n_resamples: int = 1000, seed: int = 0, learnt: bool = True
) -> dict:
    """What a mark adds to the probability of its class (`planted_mark.mark_use`, for that class) in the network from
    scratch, beyond what it adds in the pretrained one. Unless both have ``learnt`` to tell the classes it says nothing:
    a network that answers all images alike uses no mark, and no tissue either."""
    change = [t.set_index("image_id").eval("p_with - p_without") for t in (scratch, pretrained)]
    values = (change[0] - change[1]).to_frame()
    found = _bootstrapped(values.to_numpy(), _units(scratch, values.index), lambda x: x[:, 0], n_resamples, seed)
    return _finding("transfer", *found, len(values), learnt)


def randomisation(verdicts: pd.DataFrame, margin: float = 0.1) -> dict[str, object]:
    """From `randomisation.verdicts`: how far below ``margin`` what is left of the similarity (Spearman's) is when all
    weights are lost, in the rows of XRelevance-CAM."""
    rows = verdicts[(verdicts["method"] == OURS) & (verdicts["similarity"] == "spearman")]
    last = rows.loc[rows["depth"].idxmax()]
    value, low, high = (margin - float(last[name]) for name in ("left", "high", "low"))
    return _finding("randomisation", value, low, high, int(last["n"]))


def dilemma(table: pd.DataFrame, metric: str = "drop_hard", n_resamples: int = 1000, seed: int = 0) -> dict:
    """Spearman's rho of mean IoU and mean confidence drop over methods and columns, with its sign turned: above 0 the
    two disagree. From `map_scores`; images without evidence are left out."""
    iou, cells, units = _values(table)
    known = table[table["image_id"].isin(table[(table["metric"] == "iou") & table["value"].notna()]["image_id"])]
    drop, same, others = _values(known, metric)
    if len(drop) != len(iou) or not (units == others).all():
        raise ValueError(f"{metric} is not known of each image whose IoU is.")
    values, k = np.concatenate([iou, drop[:, [same.get_loc(cell) for cell in cells]]], axis=1), len(cells)
    found = _bootstrapped(values, units, lambda x: -_spearman(x[:, :k], x[:, k:]), n_resamples, seed)
    return _finding("dilemma", *found, len(iou))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row of ``a`` and ``b`` ``(draws, cells)``."""
    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


def conservation(axioms: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> dict[str, object]:
    """From `cam_axioms`: the mean over images of log10(XGrad-CAM's error of conservation / XRelevance-CAM's), of the
    layer where it is least. Errors below 1e-6, which is rounding, count as that."""
    rows = axioms[(axioms["axiom"] == "conservation") & axioms["method"].isin([OURS, AXIOM])]
    wide = rows.pivot_table("value", "image_id", ["method", "layer"], sort=False).dropna()
    logs = np.log10(wide.clip(lower=1e-6))
    ratio = (logs[AXIOM] - logs[OURS]).to_numpy()
    found = _bootstrapped(ratio, _units(rows, wide.index), lambda x: x.min(axis=1), n_resamples, seed)
    return _finding("conservation", *found, len(ratio))


def published_values() -> dict[str, float]:
    """The same numbers by the thesis' own tables; NaN where it shows pictures. IoU as a fraction."""
    table = published()
    found = dict.fromkeys(CLAIMS, np.nan)
    wide = {}
    for name, rows in table.groupby("table"):
        cells = rows[rows["layer"] != "average"].set_index(["method", "layer"])["value"]
        scale = 100 if rows["quantity"].iloc[0] in ("iou", "confidence_drop") else 1
        wide[name] = cells.to_numpy()[None] / scale, cells.index
    by = {name: (index, values) for name, (values, index) in wide.items()}
    found["best"] = _lead(*by["5.2"], LAYERS)[0]
    found["aggregate"] = min(
        _lead(*by["5.3"], [ALL_LAYERS])[0],
        (_of(*by["5.3"], OURS, [ALL_LAYERS]) - _of(*by["5.3"], OURS, ["layer4"]))[0],
    )
    found["other network"] = _lead(*by["5.4"], [ALL_LAYERS])[0]
    found["dropout"] = _lead(*by["5.5"], [*LAYERS[:3], ALL_LAYERS])[0]
    plain, (index, kernels) = by["5.1"], by["5.2"]
    found["selective"] = kernels[:, [m != OURS for m in index.get_level_values(0)]].mean() - plain[1].mean()
    drops = table[(table["table"] == "5.7") & table["layer"].isin(LAYERS)]["value"].to_numpy(float)
    found["dilemma"] = -_spearman(kernels, drops[None])[0]
    index, errors = by["5.9"]
    logs = {m: np.log10(np.maximum([errors[0, index.get_loc((m, c))] for c in LAYERS], 1e-6)) for m in (AXIOM, OURS)}
    found["conservation"] = (logs[AXIOM] - logs[OURS]).min()
    return found


def of_networks(by: Mapping[str, pd.DataFrame], seed: int = 0) -> list[dict[str, object]]:
    """The claims that compare networks, as far as they were trained, from `xrelevance_networks.scores_by_network`."""
    tables = [table for name, table in by.items() if name != DROPOUT]
    found = [selective(tables[0], tables[1], seed=seed)] if len(tables) > 1 else []
    found += [lead("other network", table, [ALL_LAYERS], seed=seed) for table in tables[2:]]
    return [*found, lead("dropout", by[DROPOUT], [*LAYERS[:3], ALL_LAYERS], seed=seed)]


def so_far(findings: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """The rows of `judged` that were measured, for the eye."""
    table = judged(findings).dropna(subset="n").set_index("number")
    return table[["thesis", "ours", "low", "high", "n", "verdict"]].round(3)


def judged(findings: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """The claims in their order: claim (in words), number (what it is; above 0 the claim is true), thesis (the same by
    its own tables), ours, low, high, n and verdict (`HOLDS`, `REVERSE`, `OPEN` or "not measured")."""
    found = pd.DataFrame(list(findings)).set_index("claim").reindex(CLAIMS)
    found["verdict"] = found["verdict"].fillna("not measured")
    told = pd.DataFrame({"claim": CLAIMS, "number": UNITS, "thesis": published_values()})
    return told.join(found).reset_index(drop=True)
