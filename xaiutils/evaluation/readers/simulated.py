"""Readers whose skill and trust are known: what an analysis must find again."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

_IMAGE, _READING = 0.3, 0.7  # of the variance of an impression: shared by readers and arms, and of one reading alone
_RATINGS = {"model": 4.0, "other_image": 2.0, "random_weights": 2.0}


def simulate_answers(
    design: pd.DataFrame,
    truth: pd.DataFrame,
    skill: Mapping[str, float],
    trust: Mapping[str, float] | None = None,
    masks: np.ndarray | None = None,
    reader_sd: float = 0.2,
    seed: int = 0,
    positive: str = "",
) -> list[dict[str, Any]]:
    """A file of answers (as the questionnaire saves it) for each reader of the design.

    A reading's impression is normal with variance 1 and means that are ``skill[arm]`` apart between the classes, so
    that the AUC of an arm is Phi(skill / sqrt(2)) where nobody follows the model; a reader's own skill differs by
    ``reader_sd`` in all arms. Images are hard or easy for all. The diagnosis is the impression's sign, the confidence
    how far it is from 0. A stand-in for readers, not a model of them.

    Args:
        design: of `xaiutils.evaluation.readers.design.reading_design`.
        truth: image, label and predicted, of two classes.
        skill: d' by arm.
        trust: by arm, how far a prediction moves the impression towards it, 0 by default.
        masks: bool ``(n, height, width)``, the evidence in the order of ``truth``: readers encircle it where they see
            the image alone and think it positive, the surer the better they hit it. None: no regions.
        reader_sd: standard deviation of the readers' skill.
        seed: of everything random.
        positive: the class to detect; empty: the second in alphabetical order.
    """
    rng, names = np.random.default_rng(seed), sorted(set(truth["label"]))
    positive = positive or names[-1]
    if len(names) != 2 or positive not in names:
        raise ValueError(f"simulated readers know two classes, {positive!r} among them; truth has {names}.")
    negative = names[names[0] == positive]
    order = {image: k for k, image in enumerate(truth["image"])}
    sign = np.where(truth["label"] == positive, 0.5, -0.5)
    said = np.where(truth["predicted"] == positive, 0.5, -0.5)
    easy = rng.normal(0, np.sqrt(_IMAGE), len(truth))
    files = []
    for reader, readings in design.groupby("reader", sort=False):
        own, answers = rng.normal(0, reader_sd), []
        for trial, image, arm, shown in readings[["trial", "image", "arm", "map"]].itertuples(index=False):
            k = order[image]
            x = (skill[arm] + own) * sign[k] + easy[k] + rng.normal(0, np.sqrt(_READING))
            x += (trust or {}).get(arm, 0.0) * said[k]
            answer = {"trial": trial, "diagnosis": positive if x > 0 else negative}
            answer["confidence"] = round(100 * (2 * norm.cdf(abs(x)) - 1))
            rating = rng.normal(_RATINGS[shown], 1) if shown else np.nan
            answer["agreement"] = int(np.clip(round(rating), 1, 5)) if shown else None
            answer |= {"findings": [], "seconds": round(float(rng.gamma(4, 5)), 1), "region": None}
            if masks is not None and arm == "image":
                answer["region"] = [_circle(masks[k], x, rng)] if x > 0 else []
            answers.append(answer)
        file = {"study": design["study"].iloc[0], "reader": reader, "consent": True, "answers": answers}
        files.append({**file, "causability": rng.integers(2, 6, 10).tolist()})
    return files


def _circle(mask: np.ndarray, impression: float, rng: np.random.Generator) -> Sequence[list[float]]:
    """A circle around the evidence, off it by less the surer the reader is; anywhere without evidence."""
    height, width = mask.shape
    centre, radius = rng.uniform(0.2, 0.8, 2), 0.1
    if mask.any():
        error = rng.normal(0, 0.1 / (1 + impression), 2)
        centre = np.argwhere(mask).mean(axis=0) / (height, width) + error
        radius = max(0.03, np.sqrt(mask.sum() / np.pi / height / width))
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    points = np.stack([centre[1] + radius * np.cos(angle), centre[0] + radius * np.sin(angle)], axis=1)
    return np.clip(points, 0, 1).round(4).tolist()
