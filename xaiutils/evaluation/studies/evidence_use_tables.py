"""`xaiutils.evidence_use` of several models, or of every label of one, as a table and in words: what stands above a
table of how well maps find the evidence."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.evidence_use import CANNOT_TELL, EvidenceUse, evidence_use
from xaiutils.models.wrapped import facts_of
from xaiutils.own_model.label_view import of_label
from xaiutils.own_model.wrap import wrap
from xaiutils.text import markdown


def use_by_model(models: Mapping[str, keras.Model], ds: ImageDataset, **options: Any) -> dict[str, EvidenceUse]:
    """`evidence_use` of each model by its name; ``options`` are its own."""
    return {name: _asked(model, ds, **options) for name, model in models.items()}


def use_by_label(model: keras.Model, ds: ImageDataset, **options: Any) -> dict[str, EvidenceUse]:
    """`evidence_use` of each label of a set of several: healthy places avoid the findings of all labels. A model that
    knows no names of its outputs answers with the labels of ``ds`` in their order."""
    facts, names, found = facts_of(model), list(ds.class_names), {}
    if facts is None:
        model = wrap(model, scaling="model", class_names=names)
    elif facts.class_names is None:
        model = model.with_options(class_names=names)
    for column, label in enumerate(ds.class_names):
        avoid = None if ds.masks is None else ds.masks[ds.labels[:, column] >= 0]
        found[label] = _asked(of_label(model, label), ds.of_label(label), avoid=avoid, **options)
    return found


def _asked(model: keras.Model, ds: ImageDataset, **options: Any) -> EvidenceUse:
    """Where the data do not allow the question, the answer says why."""
    if ds.masks is None or not ((ds.evidence == "known") & ds.masks.any(axis=(1, 2))).any():
        said = "Whether the model uses the evidence cannot be told: of no image is it known where that is."
        return EvidenceUse(CANNOT_TELL, said, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), [])
    return evidence_use(model, ds, **options)


def use_in_words(found: Mapping[str, EvidenceUse]) -> str:
    """A list in Markdown: of each model or label the verdict with its numbers, and which images were left out."""
    said = {name: " ".join([use.sentence, *use.notes]) for name, use in found.items()}
    return "\n".join(f"- **{markdown(name)}**: {markdown(sentence)}" for name, sentence in said.items())


def use_table(found: Mapping[str, EvidenceUse], kind: str = "model") -> pd.DataFrame:
    """All groups of `EvidenceUse.groups` with the verdict and the AUC as it is and with all evidence gone (NaN without
    one): a row for each name and group, the names in the column ``kind``."""
    tables = []
    for name, use in found.items():
        gone = use.merit[(use.merit["quantity"] == "AUC") & (use.merit["version"] == "evidence gone")] if len(
            use.merit) else use.merit  # fmt: skip
        before, after = (gone[side].iloc[0] if len(gone) else np.nan for side in ("before", "after"))
        rows = use.groups if len(use.groups) else pd.DataFrame({"by": ["all"], "group": ["all"], "n": [0]})
        facts = {kind: name, "verdict": use.verdict}
        tables.append(rows.assign(AUC=before, AUC_evidence_gone=after, **facts)[[*facts, *rows.columns, "AUC",
                                                                                 "AUC_evidence_gone"]])  # fmt: skip
    return pd.concat(tables, ignore_index=True)
