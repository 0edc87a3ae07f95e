"""The gate before any map: does the model use the evidence at all?

A map can only be asked to find what the model uses. So the evidence is painted over from its surroundings, and in the
same image a healthy place of the same form (see `xaiutils.evaluation.studies.painting`): what the score loses by the
one beyond the other is due to the evidence. With the evidence of all images gone, the AUC says how much of what the
model knows was there.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logsumexp

from xaiutils.backend import keras
from xaiutils.classification.compare_models import compare_models
from xaiutils.classification.predictions import Predictions
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.answers import returns_score
from xaiutils.evaluation.evaluate import check_classes
from xaiutils.evaluation.studies.painting import body, grown, healthy_place, paint_over
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batches
from xaiutils.graph.predict import check_batch_size, predict
from xaiutils.registry import check_integer
from xaiutils.statistics.bootstrap import bootstrap_medians, percentiles
from xaiutils.text import counted

USES, NEEDS_NOT, DOES_NOT = (
    "uses the evidence",
    "uses the evidence, but does not need it",
    "does not use the evidence, or hardly",
)
CANNOT_TELL = "cannot be told"
FEW = 10  # patients of a class, under whom nothing is said of it
LEAST, MUCH = 0.1, 0.25  # of what speaks for the class; of the AUC above chance
KINDS = ("abnormality", "pathology", "mass_shape", "density")  # columns of metadata that tell kinds of findings
RIGHT = "called right"
VERSIONS = ("as it is", "evidence gone", "healthy place gone")
_RARE = 5  # images of a kind of finding, under which it is no group
_GAP = 2.0  # pixels between the evidence as it is painted over and a healthy place


@dataclass(frozen=True)
class EvidenceUse:
    """What `evidence_use` found.

    ``verdict``: `USES`, `NEEDS_NOT`, `DOES_NOT` or `CANNOT_TELL`; ``sentence``: the same with its numbers, for a page.

    ``groups``: a row for each group of images with evidence (all, by class and whether the model calls it, by tertile
    of the evidence's size, by `KINDS` of five images or more): by, group, n; medians of score (log-odds of the
    predicted class, or the score of a regression), evidence (what it loses when all evidence is painted over, with
    evidence_low and evidence_high), and on the n_paired images with a healthy place of the same form control (what it
    loses by that), difference (what it loses by the evidence, or the part that has an equal, beyond the control; low,
    high) and share (difference beside the score above even odds; of a regression in standard deviations; share_low,
    share_high). Intervals are bootstrap percentiles over patients: 95 %, and of the classes called right together
    (Bonferroni).

    ``merit``: the model with the images as they are, with all evidence gone, and with a healthy place gone in each: a
    row for each version and quantity (AUC, accuracy): before, after, loss, low, high (of the loss), n; empty for a
    regression. ``images``: a row for each image that was taken. ``notes``: which images were not, and why.
    """

    verdict: str
    sentence: str
    groups: pd.DataFrame
    merit: pd.DataFrame
    images: pd.DataFrame
    notes: list[str]

    def _repr_markdown_(self) -> str:
        return "\n\n".join([self.sentence, *self.notes])


def evidence_use(
    model: keras.Model,
    ds: ImageDataset,
    margin: float = 0.01,
    by: Sequence[str] = KINDS,
    avoid: np.ndarray | None = None,
    batch_size: int = 32,
    n_resamples: int = 1000,
    seed: int = 0,
) -> EvidenceUse:
    """Paint the evidence of ``ds`` over, and a healthy place of each image, and see what the model loses.

    The verdict's rule is that of `judge`. Images whose evidence is unknown are left out, counted and named; those
    known to have none count for the AUC alone, as they are.

    Args:
        model, ds: any classifier or regression, of one class for each image (`ImageDataset.of_label` of several), with
            masks. A model that takes rows of further inputs finds them in ``ds.inputs``.
        margin: how far beyond its mask the evidence is painted over, as a fraction of the image's height.
        by: columns of ``ds.metadata`` whose values are groups too, of those that there are.
        avoid: where no place is healthy though it is no evidence, such as findings of other labels; bool ``(n, height,
            width)``.
        batch_size: images in one pass.
        n_resamples, seed: of the bootstrap; the seed also of the places, each image's own by its id.

    Raises:
        ValueError: no masks, none with evidence, several labels at once, or classes that are not the model's.
    """
    check_classes(model, ds)
    check_batch_size(batch_size)
    check_integer("n_resamples", n_resamples, 100)
    if ds.masks is None:
        raise ValueError("this data set has no masks: there is no evidence to paint over.")
    if not 0 <= margin <= 0.5:
        raise ValueError(f"margin={margin!r}; expected a fraction of the image's height, from 0 to 0.5.")
    taken, notes = _cases(ds, margin * ds.pixels.shape[1])
    ds, pixels = ds.select(taken), margin * ds.pixels.shape[1]
    ill = np.asarray(ds.masks) if avoid is None else ds.masks | avoid[taken]
    outputs, part = _outputs(model, ds, ill, pixels, batch_size, seed)
    images = _images(model, ds, outputs, part, by)
    lacking = images.loc[images["evidence"].notna() & images["control"].isna(), "image_id"]
    if len(lacking):
        notes.append(f"{_named(list(lacking))} in no pair: no healthy place has the evidence's form.")
    groups = _groups(images, by, n_resamples, seed)
    merit = pd.DataFrame() if returns_score(model) else _merit(ds, outputs)
    verdict, sentence = judge(groups, merit)
    return EvidenceUse(verdict, sentence, groups, merit, images, notes)


def _cases(ds: ImageDataset, pixels: float) -> tuple[np.ndarray, list[str]]:
    """The images that are taken, and sentences on the others."""
    assert ds.masks is not None
    assert ds.evidence is not None
    marked = ds.masks.any(axis=(1, 2))
    whole = np.array([m.any() and bool(grown(m, pixels).all()) for m in ds.masks], bool)
    known, empty = (ds.evidence == "known") & marked, ds.evidence == "empty"
    left_out = {
        "their evidence is not known": ds.evidence == "unknown",
        "their evidence was lost in resizing": (ds.evidence == "known") & ~marked,
        "evidence all over, with nothing to paint it over from": known & whole,
    }
    notes = [
        f"{_named([ds.ids[i] for i in np.flatnonzero(which)])} left out: {why}."
        for why, which in left_out.items()
        if which.any()
    ]
    if not (known & ~whole).any():
        raise ValueError(f"there is no image with evidence that can be painted over. {' '.join(notes)}")
    return np.flatnonzero((known & ~whole) | empty), notes


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return f"{counted(len(ids), 'image')} ({', '.join(ids[:5])}{more})"


# The passes -------------------------------------------------------------------------------------------------------


def _outputs(
    model: keras.Model, ds: ImageDataset, ill: np.ndarray, pixels: float, batch_size: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores of all images in each version, float64 ``(n, classes)``, NaN where there is none; and of each image the
    part of its evidence that has a healthy equal."""
    network = Network.of(model)
    assert ds.masks is not None
    donors = np.flatnonzero(ds.masks.any(axis=(1, 2)))
    found = {name: np.full((len(ds), network.n_classes), np.nan) for name in (*VERSIONS, "part gone")}
    part = np.full(len(ds), np.nan)
    for batch in batches(len(ds), batch_size, "painting over"):
        members, versions, changed = [], [], []
        for i in range(len(ds))[batch]:
            rng = np.random.default_rng([seed, zlib.crc32(ds.ids[i].encode())])
            region = grown(ds.masks[i if ds.masks[i].any() else rng.choice(donors)], pixels)
            image, free = ds.pixels[i].astype(np.float32), ~grown(ill[i], pixels + _GAP)
            made, part[i] = _painted(image, region, free, bool(ds.masks[i].any()), rng)
            members += [i] * len(made)
            versions += list(made)
            changed += list(made.values())
        rows = None if ds.inputs is None else {name: values[members] for name, values in ds.inputs.items()}
        z = predict(model, np.stack(changed), batch_size, inputs=rows)
        for i, version, scores in zip(members, versions, log_odds(z, network.activation), strict=True):
            found[version][i] = scores
    for version, same_as in (("evidence gone", "as it is"), ("part gone", "evidence gone")):
        missing = np.isnan(found[version][:, 0])
        found[version][missing] = found[same_as][missing]
    return found, part


def _painted(
    image: np.ndarray, region: np.ndarray, free: np.ndarray, of_evidence: bool, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], float]:
    """The versions of an image that can be made, and the part of the region that has a healthy equal."""
    made, part = {"as it is": image}, np.nan
    if of_evidence:
        made["evidence gone"] = paint_over(image, region)
    found = healthy_place(image, region, free & body(image), rng)
    if found is not None:
        core, place = found
        part = core.sum() / region.sum()
        made["healthy place gone"] = paint_over(image, place)
        if of_evidence and part < 1:
            made["part gone"] = paint_over(image, core)
    return made, part


def log_odds(logits: np.ndarray, activation: str) -> np.ndarray:
    """log p - log (1 - p) of each class, float64 ``(n, classes)``, which logits of a softmax are up to a sum that all
    classes share; independent logits, and scores, as they are. ``activation`` is that of `Network`."""
    z = np.asarray(logits, np.float64)
    if activation != "softmax":
        return z
    return np.stack([z[:, c] - logsumexp(np.delete(z, c, axis=1), axis=1) for c in range(z.shape[1])], axis=1)


# The tables -------------------------------------------------------------------------------------------------------


def _images(
    model: keras.Model, ds: ImageDataset, outputs: Mapping[str, np.ndarray], part: np.ndarray, by: Sequence[str]
) -> pd.DataFrame:
    """`EvidenceUse.images`; changes are NaN without evidence, or without a healthy place."""
    assert ds.masks is not None
    targets, rows = outputs["as it is"].argmax(axis=1), np.arange(len(ds))
    score = {version: found[rows, targets] for version, found in outputs.items()}
    marked = ds.masks.any(axis=(1, 2))
    table = pd.DataFrame({"image_id": ds.ids, "patient_id": ds.patients or ds.ids})
    if returns_score(model):
        table["reach"] = float(np.std(score["as it is"])) or np.nan
    else:
        names = np.asarray(ds.class_names)
        table["label"], table["predicted"] = names[ds.labels], names[targets]
        table["correct"] = targets == ds.labels
        table["reach"] = score["as it is"] + np.log(max(len(names) - 1, 1))
    changes = {version: np.where(marked, score["as it is"] - found, np.nan) for version, found in score.items()}
    table["area"], table["part"] = ds.masks.mean(axis=(1, 2)), part
    table["score"], table["evidence"] = score["as it is"], changes["evidence gone"]
    table["control"] = score["as it is"] - score["healthy place gone"]
    table["difference"] = changes["part gone"] - table["control"]
    kinds = {name: ds.metadata[name].astype(str) for name in by if name in ds.metadata and name not in table}
    return table.assign(**kinds)


def _groups(images: pd.DataFrame, by: Sequence[str], n_resamples: int, seed: int) -> pd.DataFrame:
    parts = list(_split(images[images["evidence"].notna()], by))
    judged = sum(kind == RIGHT for kind, *_ in parts)
    return pd.DataFrame(
        {"by": kind, "group": name, "n": len(rows)}
        | _medians(rows, n_resamples, seed, 1 - 0.05 / judged if kind == RIGHT else 0.95)
        for kind, name, rows in parts
    )


def _split(rows: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(kind of group, its name, its images)."""
    yield "all", "all", rows
    if "correct" in rows:
        for right, said in ((True, RIGHT), (False, "called wrong")):
            for name, members in rows[rows["correct"] == right].groupby("label", sort=True):
                yield said, str(name), members
    if rows["area"].nunique() >= 3:
        size = pd.qcut(rows["area"].rank(method="first"), 3, labels=["small", "middle", "large"])
        for name, members in rows.groupby(size, observed=True):
            yield "size", str(name), members
    for column in (c for c in by if c in rows and rows[c].nunique() > 1):
        for name, members in rows.groupby(column, sort=True):
            if len(members) >= _RARE:
                yield column, str(name), members


def _medians(rows: pd.DataFrame, n_resamples: int, seed: int, confidence: float) -> dict[str, float]:
    """The numbers of a group, see `EvidenceUse`."""
    paired = rows[rows["difference"].notna()]
    found: dict[str, float] = {"n_paired": len(paired), "patients": paired["patient_id"].nunique()}
    found["score"], found["evidence"] = rows["score"].median(), rows["evidence"].median()
    found["evidence_low"], found["evidence_high"] = _ends(
        _drawn(rows, ["evidence"], n_resamples, seed)[:, 0], confidence
    )
    found["control"], found["difference"] = paired["control"].median(), paired["difference"].median()
    drawn = _drawn(paired, ["difference", "reach"], n_resamples, seed)
    found["low"], found["high"] = _ends(drawn[:, 0], confidence)
    with np.errstate(divide="ignore", invalid="ignore"):  # a score at even odds has no share
        found["share"] = np.divide(found["difference"], paired["reach"].median())
        found["share_low"], found["share_high"] = _ends(drawn[:, 0] / drawn[:, 1], confidence)
    return found


def _drawn(rows: pd.DataFrame, columns: list[str], n_resamples: int, seed: int) -> np.ndarray:
    """Medians of columns in each replicate ``(n_resamples, columns)``; NaN of a single patient."""
    if rows["patient_id"].nunique() < 2:
        return np.full((n_resamples, len(columns)), np.nan)
    return bootstrap_medians(rows[columns].to_numpy(float), rows["patient_id"].to_numpy(), n_resamples, seed)


def _ends(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = percentiles(samples, confidence) if np.isfinite(samples).any() else (np.nan, np.nan)
    return float(low), float(high)


def _merit(ds: ImageDataset, outputs: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """`EvidenceUse.merit`: paired, over patients, on the images that have both versions."""
    parts = []
    for version in VERSIONS[1:]:
        both = np.isfinite(outputs[version][:, 0])
        if not both.any():
            continue
        groups = {} if ds.patients is None else {"patient": np.asarray(ds.patients)[both]}
        odds = {name: expit(outputs[name][both]) for name in (VERSIONS[0], version)}
        answers = {
            name: Predictions(ds.labels[both], p / p.sum(axis=1, keepdims=True), ds.class_names, groups)
            for name, p in odds.items()
        }
        table = compare_models(answers).rename(columns={"value_a": "before", "value_b": "after", "difference": "loss"})
        # Rankings that never differ: of m disjoint pairs all are in order with the probability AUC^m at most.
        m = min(len(set(answers[version].units[ds.labels[both] == c])) for c in set(ds.labels[both]))
        bound = 1 - 0.025 ** (1 / m)
        same = (table["quantity"] == "AUC") & table["low"].isna()
        table.loc[same, ["low", "high"]] = -bound, bound
        parts.append(table.assign(version=version, n=int(both.sum())))
    return pd.concat(parts, ignore_index=True)[["version", "quantity", "before", "after", "loss", "low", "high", "n"]]


# The verdict ------------------------------------------------------------------------------------------------------


def judge(groups: pd.DataFrame, merit: pd.DataFrame) -> tuple[str, str]:
    """The verdict, and a sentence with its numbers, on tables of `EvidenceUse`.

    It goes by the images of each class that the model calls right (all images of a regression, whose sign is free),
    where they are of at least `FEW` patients with a healthy place. Share is what the score loses by the evidence beyond
    the healthy place, beside all that speaks for the class.

    - `USES`: of some class the difference's interval (corrected for the number of classes) is above 0 and the share at
      least `LEAST`; or the AUC with all evidence gone loses, by the interval's end and beyond what a healthy place
      takes, more than `MUCH` of what it was above chance (evidence may fill so much of the image that only its core
      has a healthy equal);
    - `NEEDS_NOT`: so it is, but by the interval's other end the AUC loses less than that: something else tells the
      classes apart as well;
    - `DOES_NOT`: of every class the share's interval ends below `MUCH`, and so does the AUC's loss; or below `LEAST`,
      and the AUC does not fall as above;
    - `CANNOT_TELL`: else, or too few images.
    """
    score = not len(merit)
    asked = groups[groups["by"] == ("all" if score else RIGHT)]
    enough = asked[(asked["n_paired"] >= FEW) & (asked["patients"] >= FEW)]
    if enough.empty:
        most = int(asked["n_paired"].max()) if len(asked) else 0
        return CANNOT_TELL, (
            f"Whether the model uses the evidence cannot be told: of no class are there {FEW} patients with an image "
            f"called right, known evidence and a healthy place of its form (at most {most})."
        )
    side = np.sign(enough["difference"]) if score else 1.0
    share, low = side * enough["share"], np.where(side > 0, enough["low"], -enough["high"])
    used = enough[(low > 0) & (share >= LEAST)]
    best = (used if len(used) else enough).loc[lambda t: t["share"].abs().fillna(0).idxmax()]
    lost, falls, stays = merit, False, False
    if not score:
        of_auc = merit[merit["quantity"] == "AUC"]
        lost = of_auc[of_auc["version"] == VERSIONS[1]]
        traces = float(of_auc.loc[of_auc["version"] == VERSIONS[2], "loss"].clip(lower=0).sum())
        room = MUCH * (lost["before"] - 0.5).clip(lower=0)
        falls, stays = bool((lost["low"] - traces > room).any()), bool((lost["high"] < room).any())
    reach = np.maximum(enough["share_high"], -enough["share_low"] if score else -np.inf).max(skipna=False)
    if (reach < MUCH and stays) or (reach < LEAST and not falls):
        verdict = DOES_NOT
    elif len(used) or falls:
        verdict = NEEDS_NOT if stays else USES
    else:
        verdict = CANNOT_TELL
    return verdict, _sentence(verdict, best, enough.drop(best.name), lost, score)


def _sentence(verdict: str, best: pd.Series, others: pd.DataFrame, lost: pd.DataFrame, score: bool) -> str:
    """The verdict with the numbers of the class of the largest share, of the others, and the AUC."""
    said = f"The model {verdict}" if verdict != CANNOT_TELL else "Whether the model uses the evidence cannot be told"
    of = "standard deviations of the score" if score else f"of what speaks for {best['group']!r}"
    said += (
        f": painted over, it takes {best['difference']:.2f} [{best['low']:.2f}, {best['high']:.2f}] from the score "
        f"({best['score']:.2f}) beyond a healthy place of its form ({best['control']:.2f}), {best['share']:.2f} "
        f"[{best['share_low']:.2f}, {best['share_high']:.2f}] {of} ({best['n_paired']} images"
        f"{'' if score else ' called right'})"
    )
    more = [
        f"{row.difference:.2f} [{row.low:.2f}, {row.high:.2f}] of {row.score:.2f} for {row.group!r} ({row.n_paired})"
        for row in others.iloc[:4].itertuples()
    ]
    said += f", and {', '.join(more)}" if more else ""
    for found in lost.itertuples():
        said += (
            f"; with all evidence gone the AUC is {found.after:.3f} after {found.before:.3f} "
            f"(loss {found.loss:.3f} [{found.low:.3f}, {found.high:.3f}])"
        )
    return said + "."
